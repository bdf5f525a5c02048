package seller

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/agent"
)

// say hands lines to an agent's control and returns what it answered.
func say(t *testing.T, ctx context.Context, h *hub, text string) string {
	t.Helper()
	client, server := net.Pipe()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { h.command(ctx, server) })
	io.WriteString(client, text) // fails when the agent has had enough
	b, err := io.ReadAll(client)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestControlHostile: whatever a program sends, it is answered or left.
func TestControlHostile(t *testing.T) {
	h := &hub{log: slog.New(slog.DiscardHandler)}
	for text, want := range map[string]string{
		"nonsense\n":                      `{"error":"no command \"nonsense\": this agent is of another version"}`,
		"\n":                              `{"error":"no command \"\": this agent is of another version"}`,
		strings.Repeat("x", 2*maxCommand): "",
	} {
		if got := say(t, t.Context(), h, text); strings.TrimSpace(got) != want {
			t.Errorf("%.20q: %s, want %s", text, got, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		h := &hub{log: slog.New(slog.DiscardHandler), lines: []*line{{Seller: &Seller{settle: make(chan settleRequest)}}}}
		start := time.Now()
		if got := say(t, t.Context(), h, "stat"); got != "" || time.Since(start) != controlTime {
			t.Errorf("half a command: %q after %v", got, time.Since(start))
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		time.AfterFunc(time.Second, cancel)
		// Nobody settles: the agent stops first. Its answer may or may not be
		// faster than the end of the connection.
		if got := say(t, ctx, h, "settle\n"); got != "" && !strings.Contains(got, errStops.Error()) {
			t.Errorf("settle while stopping: %q", got)
		}
	})
}

// TestControlBroken: what a Control says of an agent that is none, or ends.
func TestControlBroken(t *testing.T) {
	dir, err := os.MkdirTemp("", "x402") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "c")
	control := DialControl(path)
	if _, err := control.Settle(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no socket: %v", err)
	}
	ln, err := agent.ListenPrivate(path)
	if err != nil {
		t.Fatal(err)
	}
	for said, want := range map[string]string{
		"":                     "settle: the agent ended before it answered: unexpected EOF",
		"{":                    "settle: the agent's answer: unexpected end of JSON input",
		`{"error":"no money"}`: "no money",
		`{"result":[]}`:        "settle: the agent's answer: json: cannot unmarshal array into Go struct field",
	} {
		var wg sync.WaitGroup
		wg.Go(func() {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			io.ReadFull(conn, make([]byte, len("settle\n")))
			io.WriteString(conn, said)
			conn.Close()
		})
		if _, err := control.Settle(t.Context()); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", said, err, want)
		}
		wg.Wait()
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if conn, err := ln.Accept(); err == nil {
			io.Copy(io.Discard, conn) // until the client gives up
			conn.Close()
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err = control.Get(ctx, "status", new(json.RawMessage))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a silent agent: %v", err)
	}
	ln.Close() // it may have given up before it was accepted
	wg.Wait()
	if err := control.Get(t.Context(), "status", new(json.RawMessage)); !errors.Is(err, ErrNotRunning) {
		t.Errorf("closed: %v", err)
	}
}
