//go:build unix

package tunnel

import (
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// tcpPair is a connection over loopback.
func tcpPair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := net.Dial("tcp4", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

// TestInletOfSocket reads all, and holds no buffer while it waits.
func TestInletOfSocket(t *testing.T) {
	near, far := tcpPair(t)
	s := &store{most: 1 << 20}
	in := newInlet(near, s)
	defer in.close()
	var got []byte
	done := make(chan error, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for {
			b, err := in.next()
			if len(b) > 0 {
				got = append(got, b[Headroom:]...)
			}
			if err != nil {
				done <- err
				return
			}
		}
	})
	want := bytes.Repeat([]byte("0123456789abcde"), 100_000)
	if _, err := far.Write(want); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(10 * time.Second); s.lent.Load() != 0; runtime.Gosched() {
		if time.Now().After(until) {
			t.Fatal("it holds a buffer while nothing comes")
		}
	}
	far.CloseWrite()
	if err := <-done; err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("read %d bytes that differ from the %d written", len(got), len(want))
	}
}

// TestInletOfBrokenSocket tells a reset and a close from an end.
func TestInletOfBrokenSocket(t *testing.T) {
	for name, row := range map[string]struct {
		end  func(near, far *net.TCPConn)
		want error
	}{
		"reset":  {func(_, far *net.TCPConn) { far.SetLinger(0); far.Close() }, syscall.ECONNRESET},
		"closed": {func(near, _ *net.TCPConn) { near.Close() }, net.ErrClosed},
	} {
		near, far := tcpPair(t)
		in := newInlet(near, new(store))
		row.end(near, far)
		if _, err := in.next(); !errors.Is(err, row.want) {
			t.Errorf("%s: got %v", name, err)
		}
		in.close()
	}
}
