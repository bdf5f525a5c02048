// Package tunnel carries TCP and UDP flows between a buyer and an agent.
//
// The agent's side is a [Session]: it answers the requests of one buyer's
// connection, reaches targets through a [Dialer] and tells its [Lanes] what it
// relays. The buyer's side is a [Client]: it opens flows that look like a
// net.Conn. Both sides speak standard HTTP: a TCP flow is a CONNECT request
// (RFC 9114 §4.4), a UDP flow a CONNECT-UDP request (RFC 9298), and one
// long-lived extended CONNECT with the protocol "x402-channel" is the
// [Control] stream, whose capsules (RFC 9297 §3.2) belong to the two owners of
// the tunnel, but for three that steer single flows.
//
// The package knows nothing of money, SIMs or prices. What is counted, and
// when, is in docs/PROTOCOL.md §4; flow.go and packetflow.go follow it.
package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// Header is the head of a request, in the terms of RFC 9114 §4.3.1 and
// RFC 9220.
type Header struct {
	Method    string
	Protocol  string // of an extended CONNECT
	Authority string
	Path      string // as on the wire: escaped
	Fields    Fields
}

// A Stream is one request's two directions. Reading and writing may be done
// by two goroutines at once; each direction by one at a time.
type Stream interface {
	io.ReadWriteCloser // Close ends the sending direction in order (a FIN)
	// ID names the stream on its connection, alike on both sides.
	ID() uint64
	// Abort ends the sending direction with an error code of RFC 9114 §8.1.
	// It ends a Write that waits; what was written before may be lost.
	Abort(code uint64)
	// Stop asks the peer to send no more; what is under way is lost.
	Stop(code uint64)
}

// A Packeter is a Stream that carries datagrams beside its bytes (RFC 9297
// §2). SendDatagram sends what is behind the first [Headroom] bytes of b, which
// it may overwrite. It returns [ErrTooLarge] for one that does not fit a packet.
type Packeter interface {
	SendDatagram(b []byte) error
	ReceiveDatagram(ctx context.Context) ([]byte, error)
}

// A Failer is a Stream that can end the sending direction like Close, so that
// all that was written arrives, and say that it ends there by a fault of the
// target's connection: the peer reads [ErrBroken]. Fail returns an error when
// the peer did not ask to be told so.
type Failer interface {
	Fail() error
}

// A Framer is a Stream that puts a head in front of what is written.
// WriteFramed writes b[Headroom:] like Write, and head and bytes in one piece:
// it may overwrite what is before them in b.
type Framer interface {
	WriteFramed(b []byte) (int, error)
}

// Headroom is how much room a [Framer] or [Packeter] is left.
const Headroom = 16

// write writes b[Headroom:], and may overwrite what is before it.
func write(s Stream, b []byte) (int, error) {
	if f, ok := s.(Framer); ok {
		return f.WriteFramed(b)
	}
	return s.Write(b[Headroom:])
}

// A Waiter is a Stream that can be waited for without a buffer: Wait returns
// when a Read would find bytes, an end or an error.
type Waiter interface {
	Wait()
}

// ErrBroken is read behind the last byte of a flow whose target reset it. It
// Is syscall.ECONNRESET.
var ErrBroken = fmt.Errorf("tunnel: target: %w", syscall.ECONNRESET)

// A Request is the buyer's end of a request: it may be written to at once and
// read after Answer.
type Request interface {
	Stream
	// Answer waits for the head of the answer. It is called once, before the
	// first Read.
	Answer() (status int, fields Fields, err error)
}

// A Call is a request as the agent sees it, until it is accepted or refused.
type Call interface {
	Accept(fields Fields) (Stream, error)
	Refuse(status int, fields Fields, text string) error
}

// A ClientConn is the buyer's end of a transport connection.
type ClientConn interface {
	Open(ctx context.Context, h Header) (Request, error)
	// ExportKey derives a secret that only the two ends of this connection
	// know (RFC 8446 §7.5).
	ExportKey(label string) ([32]byte, error)
	// Context ends with the connection; its cause is a *CloseError.
	Context() context.Context
	Close(r Reason, text string) error
}

// A ServerConn is the agent's end of a transport connection.
type ServerConn interface {
	// Serve calls handle, each time in a goroutine of its own, until the
	// connection ends, and returns when all calls have returned.
	Serve(handle func(Header, Call)) error
	ExportKey(label string) ([32]byte, error)
	Context() context.Context
	Close(r Reason, text string) error
}

// A Lane is told of every packet of one direction and kind. Reserve waits
// while the credit is spent; an error ends the flow. Deliver is called after
// the packet was handed on, with what was really delivered of it.
type Lane interface {
	Reserve(ctx context.Context, n int) error
	Deliver(reserved, delivered int)
}

// Lanes are the lanes of one session.
type Lanes struct{ UpTCP, DownTCP, UpUDP, DownUDP Lane }

// A Dialer reaches targets for the buyer. It resolves names itself and checks
// every address that it dials. An error with a method Blocked() string is a
// target that policy forbids.
type Dialer interface {
	DialTCP(ctx context.Context, host string, port uint16) (net.Conn, error)
	DialUDP(ctx context.Context, host string, port uint16) (net.Conn, error)
}

// PacketOverhead is counted for every UDP packet on top of its payload.
const PacketOverhead = 28

// ErrTooLarge says that a datagram does not fit into one packet.
var ErrTooLarge = errors.New("tunnel: datagram too large")

// Reason says why a connection ended; it is the application error code of the
// QUIC connection. Codes below 0x7402_0000 are HTTP/3's own (RFC 9114 §8.1).
type Reason uint64

const (
	ReasonDone      Reason = 0x100       // H3_NO_ERROR: finished in order
	ReasonProtocol  Reason = 0x7402_0001 // the peer broke docs/PROTOCOL.md
	ReasonVersion   Reason = 0x7402_0002 // no protocol version in common
	ReasonAuth      Reason = 0x7402_0003 // the hello did not prove its claims
	ReasonRefused   Reason = 0x7402_0004 // terms, channel or policy refused
	ReasonUnpaid    Reason = 0x7402_0005 // no progress of payment for 30 s
	ReasonOvercount Reason = 0x7402_0006 // the agent counts more than was sent
	ReasonLimit     Reason = 0x7402_0007 // a limit of the agent is reached
	ReasonShutdown  Reason = 0x7402_0008 // the peer stops; come back later
	ReasonReplaced  Reason = 0x7402_0009 // a newer session of the same channel
	ReasonInternal  Reason = 0x7402_000a // a fault of the peer's own
)

var reasonText = map[Reason]string{
	ReasonDone: "done", ReasonProtocol: "protocol error", ReasonVersion: "no common version",
	ReasonAuth: "not authenticated", ReasonRefused: "refused", ReasonUnpaid: "unpaid",
	ReasonOvercount: "agent overcounts", ReasonLimit: "limit reached", ReasonShutdown: "shutting down",
	ReasonReplaced: "replaced by a newer session", ReasonInternal: "internal error",
}

func (r Reason) String() string {
	if s, ok := reasonText[r]; ok {
		return s
	}
	return fmt.Sprintf("reason %#x", uint64(r))
}

// A CloseError is why a connection ended. It Is net.ErrClosed.
type CloseError struct {
	Reason Reason
	Text   string
	Remote bool  // the peer ended it
	Err    error // the transport's own error, when it was lost
}

func (e *CloseError) Error() string {
	who := "closed"
	if e.Remote {
		who = "closed by peer"
	}
	switch {
	case e.Err != nil:
		return "connection lost: " + e.Err.Error()
	case e.Text != "":
		return fmt.Sprintf("%s: %s: %s", who, e.Reason, e.Text)
	default:
		return fmt.Sprintf("%s: %s", who, e.Reason)
	}
}

// Unwrap returns the transport's error.
func (e *CloseError) Unwrap() error { return e.Err }

// Is reports whether target is net.ErrClosed.
func (e *CloseError) Is(target error) bool { return target == net.ErrClosed }

// Error codes of streams, RFC 9114 §8.1.
const (
	codeInternal = 0x102 // H3_INTERNAL_ERROR
	codeLoad     = 0x107 // H3_EXCESSIVE_LOAD
	codeCanceled = 0x10c // H3_REQUEST_CANCELLED
	codeConnect  = 0x10f // H3_CONNECT_ERROR
)
