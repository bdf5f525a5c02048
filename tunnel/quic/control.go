package quic

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	quicgo "github.com/apernet/quic-go"
	"github.com/apernet/quic-go/http3"
	"github.com/apernet/quic-go/quicvarint"
)

// Of what a peer sends on streams in one direction, the HTTP/3 control stream
// (RFC 9114 §6.2.1) is read here, since the library, once it has seen that
// datagrams are allowed, takes them from the connection itself; see inboxes.

// Numbers of RFC 9114 §6.2 and §7.2, and RFC 9297 §2.1.1.
const (
	streamControl = 0x00
	streamPush    = 0x01
	streamEncoder = 0x02 // RFC 9204 §4.2
	streamDecoder = 0x03

	frameData      = 0x00
	frameHeaders   = 0x01
	framePromise   = 0x05
	frameSettings  = 0x04
	frameGoAway    = 0x07
	frameMaxPushID = 0x0d

	settingSection  = 0x06
	settingDatagram = 0x33

	maxSettings = 4 << 10
)

// Frames and settings that are an error on a control stream: those of requests
// and what HTTP/2 had (RFC 9114 §7.2 and §11.2).
var (
	badFrames   = [...]uint64{frameData, 0x01, 0x02, 0x05, 0x06, 0x08, 0x09}
	badSettings = [...]uint64{0x00, 0x02, 0x03, 0x04, 0x05}
)

// inward says how an end takes what its peer sends on streams in one direction.
type inward struct {
	rest func(*quicgo.ReceiveStream) // takes those that are not the control stream
	// goAway takes the last request that a server serves; nil with an agent,
	// which pushes nothing that a client could refuse (RFC 9114 §5.2).
	goAway   func(id uint64) error
	settings func(datagrams bool) // is called once
}

// acceptUni serves the peer's streams in one direction until the connection
// ends.
func (l link) acceptUni(in inward) {
	var streams sync.WaitGroup
	defer streams.Wait()
	var control atomic.Bool // it was seen
	for {
		str, err := l.conn.AcceptUniStream(l.ctx)
		if err != nil {
			return
		}
		streams.Go(func() {
			if typ, n, err := peekVarint(str); err != nil || typ != streamControl {
				in.rest(str)
			} else if control.Swap(true) {
				l.fail(http3.ErrCodeStreamCreationError, errors.New("a second control stream"))
			} else {
				l.control(str, n, in)
			}
		})
	}
}

// peekVarint returns a stream's type and the length of its encoding, and
// leaves it to be read.
func peekVarint(str *quicgo.ReceiveStream) (v uint64, n int, err error) {
	var b [8]byte
	if _, err := str.Peek(b[:1]); err != nil {
		return 0, 0, err
	}
	n = 1 << (b[0] >> 6)
	if _, err := str.Peek(b[:n]); err != nil {
		return 0, 0, err
	}
	return quicvarint.Parse(b[:n])
}

// control serves the control stream, whose type takes n bytes, and with it the
// connection's datagrams.
func (l link) control(str *quicgo.ReceiveStream, n int, in inward) {
	if _, err := io.CopyN(io.Discard, str, int64(n)); err != nil {
		return // the connection has ended: the bytes were there
	}
	var receiving sync.WaitGroup
	defer receiving.Wait()
	in.settings = func(datagrams bool) {
		if datagrams {
			receiving.Go(l.receiveDatagrams)
		}
	}
	code, err := readControl(str, in)
	l.fail(code, err)
}

// fail ends a connection whose peer does not keep to HTTP/3; one that has ended
// stays as it is.
func (l link) fail(code http3.ErrCode, err error) {
	_ = l.conn.CloseWithError(quicgo.ApplicationErrorCode(code), err.Error())
}

// readControl reads a control stream behind its type to its end, which it
// returns as an error of RFC 9114 §8.1.
func readControl(r io.Reader, in inward) (http3.ErrCode, error) {
	v := quicvarint.NewReader(r)
	for first := true; ; first = false {
		typ, err := quicvarint.Read(v)
		if err != nil {
			return http3.ErrCodeClosedCriticalStream, fmt.Errorf("control stream: %w", err)
		}
		n, err := quicvarint.Read(v)
		switch {
		case err != nil:
			return http3.ErrCodeClosedCriticalStream, fmt.Errorf("control stream: %w", err)
		case first && typ != frameSettings:
			return http3.ErrCodeMissingSettings, fmt.Errorf("frame %#x before the settings", typ)
		case first:
			datagrams, code, err := readSettings(v, n)
			if err != nil {
				return code, err
			}
			in.settings(datagrams)
		case typ == frameSettings, slices.Contains(badFrames[:], typ), typ == frameMaxPushID && in.goAway != nil:
			return http3.ErrCodeFrameUnexpected, fmt.Errorf("frame %#x on the control stream", typ)
		case typ == frameGoAway && in.goAway != nil:
			id, err := readID(v, n)
			if err != nil {
				return http3.ErrCodeFrameError, err
			}
			if err := in.goAway(id); err != nil {
				return http3.ErrCodeIDError, err
			}
		default:
			if _, err := io.CopyN(io.Discard, v, int64(n)); err != nil {
				return http3.ErrCodeClosedCriticalStream, fmt.Errorf("control stream: %w", err)
			}
		}
	}
}

// readID reads a frame of n bytes that is one number.
func readID(r io.Reader, n uint64) (uint64, error) {
	var b [8]byte
	if n > uint64(len(b)) {
		return 0, fmt.Errorf("an ID of %d bytes", n)
	}
	if _, err := io.ReadFull(r, b[:n]); err != nil {
		return 0, fmt.Errorf("an ID: %w", err)
	}
	id, used, err := quicvarint.Parse(b[:n])
	if err == nil && uint64(used) != n {
		err = fmt.Errorf("an ID of %d bytes in %d", used, n)
	}
	return id, err
}

func readSettings(r io.Reader, n uint64) (datagrams bool, code http3.ErrCode, err error) {
	if n > maxSettings {
		return false, http3.ErrCodeExcessiveLoad, fmt.Errorf("settings of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return false, http3.ErrCodeFrameError, fmt.Errorf("settings: %w", err)
	}
	return parseSettings(b)
}

// parseSettings returns the one setting that matters here.
func parseSettings(b []byte) (datagrams bool, code http3.ErrCode, err error) {
	seen := false
	for len(b) > 0 {
		id, n, err := quicvarint.Parse(b)
		if err != nil {
			return false, http3.ErrCodeFrameError, fmt.Errorf("settings: %w", err)
		}
		value, m, err := quicvarint.Parse(b[n:])
		if err != nil {
			return false, http3.ErrCodeFrameError, fmt.Errorf("settings: %w", err)
		}
		b = b[n+m:]
		switch {
		case slices.Contains(badSettings[:], id), id == settingDatagram && (seen || value > 1):
			return false, http3.ErrCodeSettingsError, fmt.Errorf("setting %#x = %d", id, value)
		case id == settingDatagram:
			seen, datagrams = true, value == 1
		}
	}
	return datagrams, 0, nil
}
