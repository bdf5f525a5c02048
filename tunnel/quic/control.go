package quic

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	quicgo "github.com/apernet/quic-go"
	"github.com/apernet/quic-go/quicvarint"
)

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
	settingConnect  = 0x08 // RFC 9220 §3
	settingDatagram = 0x33

	maxSettings = 4 << 10
)

// Frames and settings that are an error on a control stream: those of requests
// and what HTTP/2 had (RFC 9114 §7.2 and §11.2).
var (
	badFrames   = [...]uint64{frameData, 0x01, 0x02, 0x05, 0x06, 0x08, 0x09}
	badSettings = [...]uint64{0x00, 0x02, 0x03, 0x04, 0x05}
)

// sendSettings opens the control stream, which stays open (RFC 9114 §6.2.1). The
// settings of RFC 9204 are left at none: no dynamic table. more are an end's
// own settings, each a number below 64 and its value.
func (l *link) sendSettings(more ...byte) {
	str, err := l.conn.OpenUniStream()
	l.writeSettings(str, err, more...)
}

// writeSettings does so on a stream that was opened, unless err says that it was
// not.
func (l *link) writeSettings(str *quicgo.SendStream, err error, more ...byte) {
	if err == nil {
		settings := quicvarint.Append([]byte{settingSection}, maxHeader)
		settings = append(append(settings, settingDatagram, 1), more...)
		_, err = str.Write(append([]byte{streamControl, frameSettings, byte(len(settings))}, settings...))
	}
	if err != nil && !rejected(err) { // then they are sent again
		l.fail(codeInternal, fmt.Errorf("control stream: %w", err))
	}
}

// acceptUni serves the peer's streams in one direction until the connection
// ends. goAway takes the last request that a server serves; it is nil at the
// agent, which pushes nothing that a client could refuse (RFC 9114 §5.2).
func (l *link) acceptUni(goAway func(id uint64) error) {
	var streams sync.WaitGroup
	defer streams.Wait()
	var seen [streamDecoder + 1]atomic.Bool // by type
	for {
		str, err := l.conn.AcceptUniStream(l.ctx)
		if err != nil {
			return
		}
		streams.Go(func() {
			typ, n, err := peekVarint(str)
			switch {
			case err != nil, typ > streamDecoder: // RFC 9114 §6.2: neither is an error
				str.CancelRead(quicgo.StreamErrorCode(codeStreamCreation))
			case typ == streamPush && goAway != nil: // RFC 9114 §4.6: it was not allowed
				l.fail(codeID, errPush)
			case typ == streamPush: // RFC 9114 §6.2.2: only servers push
				l.fail(codeStreamCreation, errPush)
			case seen[typ].Swap(true):
				l.fail(codeStreamCreation, fmt.Errorf("a second stream of type %d", typ))
			case typ == streamControl:
				l.control(str, n, goAway)
			default:
				l.fail(readQPACK(str, typ, n))
			}
		})
	}
}

var errPush = errors.New("a push")

// readQPACK reads a stream of QPACK, whose type takes n bytes, to its end or
// fault. Without a dynamic table an encoder can say nothing but that its size
// is zero (RFC 9204 §4.3.1), and what a decoder says does not matter.
func readQPACK(r io.Reader, typ uint64, n int) (errCode, error) {
	var b [64]byte
	_, err := io.ReadFull(r, b[:n])
	for err == nil {
		if n, err = r.Read(b[:]); typ == streamEncoder && bytes.Count(b[:n], []byte{0x20}) != n {
			return codeQPACKEncoder, errors.New("QPACK: a dynamic table")
		}
	}
	return codeClosedCritical, fmt.Errorf("QPACK: %w", err)
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
func (l *link) control(str *quicgo.ReceiveStream, n int, goAway func(id uint64) error) {
	if _, err := io.CopyN(io.Discard, str, int64(n)); err != nil {
		return // the connection has ended: the bytes were there
	}
	var receiving sync.WaitGroup
	defer receiving.Wait()
	l.fail(readControl(str, goAway, func(datagrams bool) {
		if datagrams {
			receiving.Go(l.receiveDatagrams)
		}
	}))
}

// fail ends a connection whose peer does not keep to HTTP/3; one that has ended
// stays as it is.
func (l *link) fail(code errCode, err error) {
	_ = l.conn.CloseWithError(quicgo.ApplicationErrorCode(code), err.Error())
}

// readControl reads a control stream behind its type to its end, which it
// returns as an error of RFC 9114 §8.1. settings is called once; goAway is
// acceptUni's.
func readControl(r io.Reader, goAway func(id uint64) error, settings func(datagrams bool)) (errCode, error) {
	v := quicvarint.NewReader(r)
	for first := true; ; first = false {
		typ, err := quicvarint.Read(v)
		if err != nil {
			return codeClosedCritical, fmt.Errorf("control stream: %w", err)
		}
		n, err := quicvarint.Read(v)
		switch {
		case err != nil:
			return codeClosedCritical, fmt.Errorf("control stream: %w", err)
		case first && typ != frameSettings:
			return codeMissingSettings, fmt.Errorf("frame %#x before the settings", typ)
		case first:
			datagrams, code, err := readSettings(v, n)
			if err != nil {
				return code, err
			}
			settings(datagrams)
		case typ == frameSettings, slices.Contains(badFrames[:], typ), typ == frameMaxPushID && goAway != nil:
			return codeFrameUnexpected, fmt.Errorf("frame %#x on the control stream", typ)
		case typ == frameGoAway && goAway != nil:
			id, err := readID(v, n)
			if err != nil {
				return codeFrame, err
			}
			if err := goAway(id); err != nil {
				return codeID, err
			}
		default:
			if _, err := io.CopyN(io.Discard, v, int64(n)); err != nil {
				return codeClosedCritical, fmt.Errorf("control stream: %w", err)
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

func readSettings(r io.Reader, n uint64) (datagrams bool, code errCode, err error) {
	if n > maxSettings {
		return false, codeExcessiveLoad, fmt.Errorf("settings of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return false, codeFrame, fmt.Errorf("settings: %w", err)
	}
	return parseSettings(b)
}

// parseSettings returns the one setting that matters here.
func parseSettings(b []byte) (datagrams bool, code errCode, err error) {
	seen := false
	for len(b) > 0 {
		id, n, err := quicvarint.Parse(b)
		if err != nil {
			return false, codeFrame, fmt.Errorf("settings: %w", err)
		}
		value, m, err := quicvarint.Parse(b[n:])
		if err != nil {
			return false, codeFrame, fmt.Errorf("settings: %w", err)
		}
		b = b[n+m:]
		switch {
		case slices.Contains(badSettings[:], id), id == settingDatagram && seen,
			value > 1 && (id == settingDatagram || id == settingConnect):
			return false, codeSettings, fmt.Errorf("setting %#x = %d", id, value)
		case id == settingDatagram:
			seen, datagrams = true, value == 1
		}
	}
	return datagrams, 0, nil
}
