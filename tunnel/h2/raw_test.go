package h2

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/tunneltest"
)

// A raw peer speaks to one end of a link, without TLS.
type raw struct {
	t    *testing.T
	conn net.Conn
	link *link
	enc  *hpack.Encoder
	out  bytes.Buffer
	wg   sync.WaitGroup
}

// newRaw begins as a peer does. It is called in a bubble.
func newRaw(t *testing.T, client bool, handle func(tunnel.Header, tunnel.Call)) *raw {
	near, far := tunneltest.Cable(time.Millisecond)
	r := &raw{t: t, conn: near, link: newLink(far, client, 8, nil)}
	r.enc = hpack.NewEncoder(&r.out)
	if !client {
		r.wg.Go(func() { _ = ServerConn{link: r.link}.Serve(handle) })
		r.send([]byte(preface))
	}
	r.send(appendSettings(nil))
	return r
}

func (r *raw) send(b []byte) {
	if _, err := r.conn.Write(b); err != nil {
		r.t.Error(err)
	}
}

// block is a header block.
func (r *raw) block(pairs ...string) []byte {
	r.out.Reset()
	for i := 0; i < len(pairs); i += 2 {
		_ = r.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return bytes.Clone(r.out.Bytes())
}

func (r *raw) connect(id uint32) []byte {
	return appendHeaders(nil, id, 0, r.block(":method", "CONNECT", ":authority", "host.test:80"))
}

// frames reads until the link has nothing more to say or a frame of typ has
// come, whose payload it returns.
func (r *raw) frame(typ byte) (head, []byte) {
	_ = r.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	defer r.conn.SetReadDeadline(time.Time{})
	if r.link.client {
		if _, err := io.ReadFull(r.conn, make([]byte, len(preface))); err != nil {
			r.t.Fatal(err)
		}
	}
	for {
		var b [headSize]byte
		if _, err := io.ReadFull(r.conn, b[:]); err != nil {
			return head{}, nil
		}
		h := parseHead(&b)
		payload := make([]byte, h.length)
		if _, err := io.ReadFull(r.conn, payload); err != nil {
			return head{}, nil
		}
		if h.typ == typ {
			return h, payload
		}
	}
}

func (r *raw) close() {
	_ = r.conn.Close()
	<-r.link.ctx.Done()
	r.link.wg.Wait()
	r.wg.Wait()
}

func refuse(_ tunnel.Header, c tunnel.Call) { _ = c.Refuse(http.StatusNotFound, nil, "no") }

// hold keeps a request until its connection ends.
func hold(_ tunnel.Header, c tunnel.Call) {
	if _, err := c.Accept(nil); err == nil {
		<-c.(call).link.ctx.Done()
	}
}

// TestHostileFrames ends the connection with the code of RFC 9113.
func TestHostileFrames(t *testing.T) {
	frame := func(typ, flags byte, stream uint32, payload []byte) []byte {
		return append(appendHead(nil, head{len(payload), typ, flags, stream}), payload...)
	}
	for name, row := range map[string]struct {
		code uint32
		sent func(r *raw) []byte
	}{
		"frame too large":        {codeFrameSize, func(*raw) []byte { return appendHead(nil, head{maxFrame + 1, frameData, 0, 1}) }},
		"data on idle":           {codeProtocol, func(*raw) []byte { return frame(frameData, 0, 5, []byte("x")) }},
		"data on 0":              {codeProtocol, func(*raw) []byte { return frame(frameData, 0, 0, []byte("x")) }},
		"reset of idle":          {codeProtocol, func(*raw) []byte { return appendReset(nil, 5, 0) }},
		"reset too short":        {codeFrameSize, func(r *raw) []byte { return append(r.connect(1), frame(frameReset, 0, 1, []byte{1})...) }},
		"window on idle":         {codeProtocol, func(*raw) []byte { return appendWindow(nil, 5, 1) }},
		"window of 0":            {codeFlowControl, func(*raw) []byte { return appendWindow(nil, 0, 0) }},
		"window overflow":        {codeFlowControl, func(*raw) []byte { return appendWindow(nil, 0, maxWindow) }},
		"window too short":       {codeFrameSize, func(*raw) []byte { return frame(frameWindow, 0, 0, []byte{1}) }},
		"settings on a stream":   {codeProtocol, func(*raw) []byte { return frame(frameSettings, 0, 1, nil) }},
		"settings of 5 bytes":    {codeFrameSize, func(*raw) []byte { return frame(frameSettings, 0, 0, make([]byte, 5)) }},
		"settings ack with data": {codeFrameSize, func(*raw) []byte { return frame(frameSettings, flagAck, 0, make([]byte, 6)) }},
		"initial window":         {codeFlowControl, func(*raw) []byte { return appendSettings(nil, setting{settingInitialWindow, 1 << 31}) }},
		"windows grow too large": {codeFlowControl, func(r *raw) []byte {
			return append(append(r.connect(1), appendWindow(nil, 1, maxWindow-defaultWindow)...), appendSettings(nil, setting{settingInitialWindow, maxWindow})...)
		}},
		"frame size setting":      {codeProtocol, func(*raw) []byte { return appendSettings(nil, setting{settingMaxFrame, 1}) }},
		"push setting":            {codeProtocol, func(*raw) []byte { return appendSettings(nil, setting{settingPush, 2}) }},
		"ping of 7 bytes":         {codeFrameSize, func(*raw) []byte { return frame(framePing, 0, 0, make([]byte, 7)) }},
		"ping on a stream":        {codeProtocol, func(*raw) []byte { return frame(framePing, 0, 1, make([]byte, 8)) }},
		"goaway too short":        {codeFrameSize, func(*raw) []byte { return frame(frameGoAway, 0, 0, make([]byte, 7)) }},
		"push":                    {codeProtocol, func(*raw) []byte { return frame(framePush, 0, 1, make([]byte, 8)) }},
		"continuation of nothing": {codeProtocol, func(*raw) []byte { return frame(frameContinuation, 0, 1, nil) }},
		"headers cut by another": {codeProtocol, func(r *raw) []byte {
			return append(frame(frameHeaders, 0, 1, r.block(":method", "GET")), appendPing(nil, 0, make([]byte, 8))...)
		}},
		"continuation of another": {codeProtocol, func(r *raw) []byte {
			return append(frame(frameHeaders, 0, 1, r.block(":method", "GET")), frame(frameContinuation, flagEndHeaders, 3, nil)...)
		}},
		"headers without end": {codeCalm, func(r *raw) []byte {
			b := frame(frameHeaders, 0, 1, r.block(":method", "GET"))
			for range 10 {
				b = append(b, frame(frameContinuation, 0, 1, make([]byte, 1000))...)
			}
			return b
		}},
		"empty continuations": {codeCalm, func(r *raw) []byte {
			b := frame(frameHeaders, 0, 1, r.block(":method", "GET"))
			for range abuseBurst + 10 {
				b = append(b, frame(frameContinuation, 0, 1, nil)...)
			}
			return b
		}},
		"undecodable headers":  {codeCompression, func(*raw) []byte { return frame(frameHeaders, flagEndHeaders, 1, []byte{0xff, 0xff, 0xff, 0xff, 0xff}) }},
		"padding beyond":       {codeProtocol, func(*raw) []byte { return frame(frameHeaders, flagEndHeaders|flagPadded, 1, []byte{9, 1}) }},
		"no room for priority": {codeProtocol, func(*raw) []byte { return frame(frameHeaders, flagEndHeaders|flagPriority, 1, []byte{9, 1}) }},
		"data padding beyond":  {codeProtocol, func(r *raw) []byte { return append(r.connect(1), frame(frameData, flagPadded, 1, []byte{9, 1})...) }},
		"even stream":          {codeProtocol, func(r *raw) []byte { return r.connect(2) }},
		"data behind the end": {codeClosed, func(r *raw) []byte {
			return append(append(r.connect(1), frame(frameData, flagEndStream, 1, nil)...), frame(frameData, 0, 1, []byte("x"))...)
		}},
		"beyond the window": {codeFlowControl, func(r *raw) []byte {
			b := r.connect(1)
			for range agentStream/maxFrame + 4 {
				b = append(b, frame(frameData, 0, 1, make([]byte, maxFrame))...)
			}
			return b
		}},
		"pings": {codeCalm, func(*raw) (b []byte) {
			for range abuseBurst + 10 {
				b = appendPing(b, 0, make([]byte, 8))
			}
			return b
		}},
		"empty data": {codeCalm, func(r *raw) []byte {
			b := r.connect(1)
			for range abuseBurst + 10 {
				b = append(b, frame(frameData, 0, 1, nil)...)
			}
			return b
		}},
		"priorities": {codeCalm, func(*raw) (b []byte) {
			for range abuseBurst + 10 {
				b = append(b, frame(framePriority, 0, 1, make([]byte, 5))...)
			}
			return b
		}},
		"rapid reset": {codeCalm, func(r *raw) (b []byte) {
			for i := range uint32(abuseBurst + 10) {
				b = append(append(b, r.connect(2*i+1)...), appendReset(nil, 2*i+1, codeCancel)...)
			}
			return b
		}},
		"too many streams": {codeCalm, func(r *raw) (b []byte) {
			for i := range uint32(abuseBurst + 30) {
				b = append(b, r.connect(2*i+1)...)
			}
			return b
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRaw(t, false, hold)
				r.send(row.sent(r))
				_, away := r.frame(frameGoAway)
				if len(away) < 8 || binary.BigEndian.Uint32(away[4:]) != row.code {
					t.Errorf("GOAWAY %x, want code %d", away, row.code)
				}
				if cause := context.Cause(r.link.ctx); !errors.Is(cause, net.ErrClosed) {
					t.Errorf("ended with %v", cause)
				}
				r.close()
			})
		})
	}
}

// TestHostilePreface ends what is not HTTP/2 at once.
func TestHostilePreface(t *testing.T) {
	for name, sent := range map[string]string{
		"HTTP/1": "GET / HTTP/1.1\r\nHost: agent\r\n\r\n" + preface, "no settings": preface + "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678", "nothing": "",
	} {
		synctest.Test(t, func(t *testing.T) {
			near, far := tunneltest.Cable(time.Millisecond)
			l := newLink(far, false, 8, nil)
			if _, err := near.Write([]byte(sent)); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			<-l.ctx.Done()
			if took := time.Since(start); name != "nothing" && took > time.Second || took > 2*idle {
				t.Errorf("%s: ended after %v", name, took)
			}
			near.Close()
			l.wg.Wait()
		})
	}
}

// TestMalformedHeads ends the stream, not the connection.
func TestMalformedHeads(t *testing.T) {
	long := string(bytes.Repeat([]byte("x"), 2900))
	for name, row := range map[string]struct {
		fields []string
		status string // of an answer; else a reset
	}{
		"no method":           {[]string{":authority", "host.test:80"}, ""},
		"CONNECT with path":   {[]string{":method", "CONNECT", ":authority", "host.test:80", ":path", "/"}, ""},
		"CONNECT without":     {[]string{":method", "CONNECT"}, ""},
		"GET without path":    {[]string{":method", "GET", ":scheme", "https", ":authority", "x"}, ""},
		"GET of no path":      {[]string{":method", "GET", ":scheme", "https", ":authority", "x", ":path", "x"}, ""},
		"GET without scheme":  {[]string{":method", "GET", ":authority", "x", ":path", "/"}, ""},
		"twice a method":      {[]string{":method", "GET", ":method", "GET", ":scheme", "https", ":path", "/"}, ""},
		"late pseudo field":   {[]string{":method", "GET", "a", "b", ":scheme", "https", ":path", "/"}, ""},
		"an answer":           {[]string{":status", "200", ":method", "GET", ":scheme", "https", ":path", "/"}, ""},
		"protocol of a GET":   {[]string{":method", "GET", ":protocol", "x", ":scheme", "https", ":path", "/"}, ""},
		"upper case":          {[]string{":method", "GET", ":scheme", "https", ":path", "/", "Abc", "x"}, ""},
		"line feed":           {[]string{":method", "GET", ":scheme", "https", ":path", "/", "abc", "x\ny: z"}, ""},
		"connection field":    {[]string{":method", "GET", ":scheme", "https", ":path", "/", "connection", "close"}, ""},
		"te":                  {[]string{":method", "GET", ":scheme", "https", ":path", "/", "te", "gzip"}, ""},
		"too large":           {[]string{":method", "GET", ":scheme", "https", ":path", "/", "a", long, "b", long, "c", long}, "431"},
		"good":                {[]string{":method", "GET", ":scheme", "https", ":path", "/x?y", "te", "trailers"}, "404"},
		"extended CONNECT":    {[]string{":method", "CONNECT", ":protocol", "connect-udp", ":scheme", "https", ":authority", "x", ":path", "/x"}, "404"},
		"POST for a protocol": {[]string{":method", "POST", fieldProtocol, "connect-udp", ":scheme", "https", ":authority", "x", ":path", "/x"}, ""}, // late pseudo fields
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRaw(t, false, refuse)
				r.send(appendHeaders(nil, 1, flagEndStream, r.block(row.fields...)))
				if row.status == "" {
					if h, b := r.frame(frameReset); h.stream != 1 || binary.BigEndian.Uint32(b) != codeProtocol {
						t.Errorf("%+v %x", h, b)
					}
				} else {
					h, b := r.frame(frameHeaders)
					got, err := newDecoder().decode(b)
					if h.stream != 1 || err != nil || got.pseudo["status"] != row.status {
						t.Errorf("%+v %v, %v", h, got.pseudo, err)
					}
				}
				if r.link.ctx.Err() != nil {
					t.Error("the connection has ended")
				}
				r.close()
			})
		})
	}
}

// TestHostileAnswers ends a buyer's stream whose agent answers nonsense.
func TestHostileAnswers(t *testing.T) {
	for name, sent := range map[string]func(r *raw) []byte{
		"no status":          func(r *raw) []byte { return appendHeaders(nil, 1, 0, r.block("a", "b")) },
		"status of no sense": func(r *raw) []byte { return appendHeaders(nil, 1, 0, r.block(":status", "20")) },
		"only a hint":        func(r *raw) []byte { return appendHeaders(nil, 1, flagEndStream, r.block(":status", "103")) },
		"data first":         func(r *raw) []byte { return append(appendHead(nil, head{1, frameData, 0, 1}), 'x') },
		"reset":              func(r *raw) []byte { return appendReset(nil, 1, codeRefused) },
		"goaway":             func(r *raw) []byte { return appendGoAway(nil, 1, codeInternal, "tired") },
		"an end":             func(r *raw) []byte { return appendGoAway(nil, 1, codeNo, "") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRaw(t, true, nil)
				c := ClientConn{link: r.link}
				req, err := c.Open(t.Context(), tunnel.Header{Method: http.MethodConnect, Authority: "host.test:80"})
				if err != nil {
					t.Fatal(err)
				}
				r.frame(frameHeaders)
				r.send(sent(r))
				if name == "an end" {
					r.conn.Close()
				}
				if status, _, err := req.Answer(); err == nil {
					t.Errorf("answered %d", status)
				}
				if _, err := req.Read(make([]byte, 1)); err == nil || err == io.EOF {
					t.Errorf("read: %v", err)
				}
				if _, err := req.Write([]byte("x")); err == nil {
					t.Error("written")
				}
				r.close()
			})
		})
	}
}

// TestUnreadAnswers ends a connection whose peer asks and does not listen.
func TestUnreadAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe() // holds nothing
		l := newLink(far, false, 8, nil)
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := near.Write(append([]byte(preface), appendSettings(nil)...))
			for err == nil {
				_, err = near.Write(appendPing(nil, 0, make([]byte, 8)))
				tunneltest.Pass(20 * time.Millisecond) // within the budget
			}
		})
		start := time.Now()
		<-l.ctx.Done()
		if took := time.Since(start); took > 5*time.Minute {
			t.Errorf("ended after %v", took)
		}
		l.mu.Lock()
		if len(l.control) > 4*maxOwed {
			t.Errorf("%d bytes held", len(l.control))
		}
		l.mu.Unlock()
		l.wg.Wait()
		near.Close()
		wg.Wait()
	})
}

// FuzzFrames gives both ends what a network may.
func FuzzFrames(f *testing.F) {
	var seed raw
	seed.enc = hpack.NewEncoder(&seed.out)
	f.Add(appendSettings(nil), false)
	f.Add(append(appendSettings(nil), seed.connect(1)...), false)
	f.Add(append(append(appendSettings(nil), seed.connect(1)...), appendHead(nil, head{0, frameData, flagEndStream, 1})...), false)
	f.Add(append(appendSettings(nil), appendHeaders(nil, 1, 0, seed.block(":status", "200"))...), true)
	f.Add(append(appendSettings(nil), appendGoAway(nil, 1, 0x74020001, "x")...), true)
	f.Add(append(appendSettings(nil), append(appendHead(nil, head{6, frameData, flagPadded, 1}), 2, 'x', 'y', 'z', 0, 0)...), true)
	f.Fuzz(func(t *testing.T, b []byte, client bool) {
		near, far := tunneltest.Cable(0)
		l := newLink(far, client, 4, nil)
		if client {
			c := ClientConn{link: l}
			req, err := c.Open(context.Background(), tunnel.Header{Method: http.MethodConnect, Authority: "host.test:80"})
			if err == nil {
				l.wg.Go(func() {
					if _, _, err := req.Answer(); err == nil {
						_, _ = io.Copy(io.Discard, req)
					}
				})
			}
		} else {
			b = append([]byte(preface), b...)
			l.wg.Go(func() {
				for {
					select {
					case s := <-l.incoming:
						refuse(s.head, call{s})
						s.leave()
					case <-l.ctx.Done():
						return
					}
				}
			})
		}
		if _, err := near.Write(b); err != nil {
			t.Fatal(err)
		}
		near.Close()
		l.wg.Wait()
		if l.window.lent < 0 || l.window.left > l.window.conn || l.window.left < 0 {
			t.Errorf("windows %+v", l.window)
		}
	})
}
