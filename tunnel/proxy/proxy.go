// Package proxy offers a tunnel to local programs as a SOCKS5 and as an HTTP
// proxy.
//
//	ln, _ := net.Listen("tcp", "127.0.0.1:1080")
//	err := proxy.ServeSOCKS5(ctx, ln, proxy.Config{Tunnel: tunnel})
//
// SOCKS5 is RFC 1928 with CONNECT and UDP ASSOCIATE, and user and password by
// RFC 1929. The HTTP proxy serves CONNECT and absolute-form requests of
// HTTP/1.1 (RFC 9110, RFC 9112), upgrades such as WebSocket included.
//
// What it promises:
//
//   - Names go to the far end as they are. Nothing is resolved here, so no
//     name leaks into the local network.
//   - CONNECT is optimistic: the program is told at once that it is connected
//     and its first bytes travel with the request. A flow that the far end
//     refuses then resets the local connection. Config.Strict waits for the
//     answer instead, one round trip later, and names the reason.
//   - Half-close passes both ways, and so does a reset.
//   - A listener that others can reach needs a user and a password.
//   - Serve functions return nil once their context is cancelled, with every
//     connection closed and every goroutine ended.
//
// It does not limit rates or count bytes: the tunnel does.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// A Tunnel reaches targets from the far end, which resolves the names.
//
// A conn of DialTCP may offer CloseWrite() error (half-close), io.WriterTo,
// and Established(context.Context) error, which waits for the far end's
// answer. The conns of DialUDP are message-oriented: one datagram is one Read
// or one Write.
type Tunnel interface {
	DialTCP(ctx context.Context, host string, port uint16) (net.Conn, error)
	DialUDP(ctx context.Context, host string, port uint16) (net.Conn, error)
}

// Config says how to serve. Tunnel or Login is required; zero fields have the defaults
// named here.
type Config struct {
	Tunnel Tunnel

	// Strict makes CONNECT wait for the far end's answer.
	Strict bool

	// User and Password, both or neither, are what a program must present:
	// by RFC 1929 over SOCKS5, as Basic authorization over HTTP.
	User, Password string
	// Login, instead of Tunnel, User and Password, says which tunnel a program
	// uses, by what it presents and the address that it comes from. Its error is
	// told if it is a *RefusedError; any other only that the login is wrong. Over
	// HTTP it is asked for each request, and flows are not kept for the next.
	Login func(ctx context.Context, from netip.Addr, user, password string) (Tunnel, error)

	Logger *slog.Logger // nil: no log

	MaxConns         int           // local connections at once; 0: 1024
	HandshakeTimeout time.Duration // for a complete request; 0: 10 s
	DialTimeout      time.Duration // for the far end's answer; 0: 30 s

	// UDPIdle ends a UDP flow on which nothing has passed either way for so
	// long. RFC 4787 REQ-5 asks for two minutes at least. 0: 2 min.
	UDPIdle time.Duration
	// UDPTargets bounds the targets of one UDP association; the one that was
	// used least recently makes room for the next. 0: 256.
	UDPTargets int
}

// An OpenListenerError says that a listener can be reached from other
// machines and asks for no password.
type OpenListenerError struct{ Addr net.Addr }

func (e *OpenListenerError) Error() string {
	return fmt.Sprintf("listen on %v: others can reach this address, and would spend your money: listen on 127.0.0.1 or set a user and a password", e.Addr)
}

// CheckListener refuses, with an *OpenListenerError, a listener on an address
// other than loopback unless c asks for a password. Networks other than IP,
// such as unix sockets, are the file system's to guard.
func (c Config) CheckListener(addr net.Addr) error {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || tcp.IP.IsLoopback() || c.wantsPassword() {
		return nil
	}
	return &OpenListenerError{Addr: addr}
}

func (c Config) wantsPassword() bool { return c.User != "" || c.Login != nil }

// fill checks c and returns it with its defaults.
func (c Config) fill() (Config, error) {
	if c.Tunnel == nil && c.Login == nil {
		return c, errors.New("proxy: Tunnel is not set")
	}
	if c.Login != nil && (c.Tunnel != nil || c.User != "" || c.Password != "") {
		return c, errors.New("proxy: Login stands for Tunnel, user and password")
	}
	if (c.User == "") != (c.Password == "") {
		return c, errors.New("proxy: set both user and password, or neither")
	}
	if len(c.User) > 255 || len(c.Password) > 255 { // RFC 1929 section 2: one octet of length
		return c, errors.New("proxy: user and password must not be longer than 255 bytes")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		zero  time.Duration
	}{
		{"HandshakeTimeout", &c.HandshakeTimeout, 10 * time.Second},
		{"DialTimeout", &c.DialTimeout, 30 * time.Second},
		{"UDPIdle", &c.UDPIdle, 2 * time.Minute},
	} {
		if *d.value < 0 {
			return c, fmt.Errorf("proxy: %s is negative", d.name)
		}
		if *d.value == 0 {
			*d.value = d.zero
		}
	}
	for _, n := range []struct {
		name  string
		value *int
		zero  int
	}{
		{"MaxConns", &c.MaxConns, 1024},
		{"UDPTargets", &c.UDPTargets, 256},
	} {
		if *n.value < 0 {
			return c, fmt.Errorf("proxy: %s is negative", n.name)
		}
		if *n.value == 0 {
			*n.value = n.zero
		}
	}
	return c, nil
}
