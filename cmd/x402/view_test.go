package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/agent/buyer"
)

// showing runs a view through a script in simulated time and returns what it
// wrote.
func showing(t *testing.T, change func(*view), script func(*view)) (string, error) {
	t.Helper()
	var out bytes.Buffer
	var err error
	synctest.Test(t, func(t *testing.T) {
		v := newView(&out)
		v.budget = 2_000_000
		change(v)
		ctx, cancel := context.WithCancel(t.Context())
		var g errgroup.Group
		g.Go(func() error { return v.run(ctx) })
		script(v)
		synctest.Wait()
		cancel()
		err = g.Wait()
	})
	return out.String(), err
}

func TestPlainView(t *testing.T) {
	var readyAt string
	got, err := showing(t, func(v *view) {
		v.connected = func(s buyer.Status) error { readyAt += s.State; return nil }
	}, func(v *view) {
		v.status(buyer.Status{State: "connecting"})
		synctest.Wait()
		for range 21 { // 10.5 s
			s := running()
			v.status(s)
			time.Sleep(500 * time.Millisecond)
		}
		s := running()
		s.Notice = "slow"
		v.status(s)
	})
	var said []string
	for line := range strings.Lines(got) {
		word, _, _ := strings.Cut(line, ":")
		said = append(said, word)
	}
	// One for each change, and one every five seconds.
	if want := "connecting connected connected connected connected"; strings.Join(said, " ") != want || !strings.HasSuffix(got, " - slow\n") {
		t.Errorf("said %s:\n%s", said, got)
	}
	if err != nil || readyAt != "connected" {
		t.Errorf("%v, ready at %q", err, readyAt)
	}
}

func TestJSONView(t *testing.T) {
	got, err := showing(t, func(v *view) { v.json = true }, func(v *view) {
		v.status(running())
		v.Write([]byte("a log line\n"))
		time.Sleep(3500 * time.Millisecond)
	})
	n := 0
	for line := range strings.Lines(got) {
		var s buyer.Status
		if err := json.Unmarshal([]byte(line), &s); err != nil || !cmp.Equal(s, running()) {
			t.Errorf("%s: %v", line, err)
		}
		n++
	}
	if n != 4 || err != nil { // at 1, 2, 3 s and at the end
		t.Errorf("%d objects, %v:\n%s", n, err, got)
	}
}

// TestViewTellsWays is about the way to the agent: once for each change, and
// beside JSON.
func TestViewTellsWays(t *testing.T) {
	change := func(v *view) {
		s := running()
		for _, w := range []way{{buyer.TLS, "r:1"}, {buyer.TLS, "r:1"}, {buyer.QUIC, "r:1"}, {buyer.QUIC, ""}} {
			s.Transport, s.Relay, s.Direct = w.transport, w.relay, w.relay == ""
			s.Resumed = s.Direct
			v.status(s)
			synctest.Wait()
		}
	}
	want := []string{
		"UDP does not get through here: using TLS; QUIC is tried again; the agent is reached by the relay r:1",
		"UDP gets through: using QUIC again; the agent is reached by the relay r:1",
		"the agent is reached directly",
		"came back by the ticket of the last session (0-RTT)",
	}
	plain, err := showing(t, func(*view) {}, change)
	var told []string
	for line := range strings.Lines(plain) {
		if !strings.HasPrefix(line, "connected: ") {
			told = append(told, strings.TrimSuffix(line, "\n"))
		}
	}
	if diff := cmp.Diff(want, told); diff != "" || err != nil {
		t.Error(err, diff)
	}
	var aside bytes.Buffer
	out, err := showing(t, func(v *view) { v.json, v.aside = true, &aside }, change)
	if diff := cmp.Diff(strings.Join(want, "\n")+"\n", aside.String()); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if !strings.HasPrefix(out, `{"state":"connected","transport":"quic","direct":true,`) || strings.Count(out, "\n") != 1 {
		t.Error(out)
	}
}

func TestLiveView(t *testing.T) {
	got, err := showing(t, func(v *view) { v.width = func() int { return 80 } }, func(v *view) {
		v.status(running())
		time.Sleep(300 * time.Millisecond)
		v.Write([]byte("level=WARN msg=x\n"))
		synctest.Wait()
	})
	if err != nil {
		t.Error(err)
	}
	screen := terminalAfter(got)
	want := []string{"level=WARN msg=x", "connected ", "spent 0.492 of 2.00 USD"}
	if len(screen) != len(want) {
		t.Fatalf("the screen shows %q", screen)
	}
	for i := range want {
		if !strings.HasPrefix(screen[i], want[i]) {
			t.Errorf("line %d is %q, want %q", i, screen[i], want[i])
		}
	}
}

// terminalAfter is what a terminal shows that got text: it knows the two
// sequences that the view uses.
func terminalAfter(text string) (lines []string) {
	for text != "" {
		if rest, ok := strings.CutPrefix(text, "\x1b[2F\x1b[J"); ok {
			lines, text = lines[:len(lines)-2], rest
			continue
		}
		line, rest, _ := strings.Cut(text, "\n")
		lines, text = append(lines, line), rest
	}
	return lines
}

// TestViewNeverBlocks is about a terminal that takes nothing, as after Ctrl-S.
func TestViewNeverBlocks(t *testing.T) {
	v := newView(nil) // run is not called: nobody reads
	for range 1000 {
		v.status(running())
		v.Write([]byte("line\n"))
	}
	if s := <-v.news; !cmp.Equal(s, running()) {
		t.Errorf("%+v", s)
	}
}

func TestReadyFileFails(t *testing.T) {
	broken := errors.New("no room")
	_, err := showing(t, func(v *view) {
		v.connected = func(buyer.Status) error { return broken }
	}, func(v *view) { v.status(running()) })
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestWithout(t *testing.T) {
	other := errors.New("other")
	for _, test := range []struct {
		err  error
		want string
	}{
		{buyer.ErrBudget, ""},
		{errors.Join(buyer.ErrBudget, nil), ""},
		{errors.Join(errors.Join(buyer.ErrBudget), other), "other"},
		{other, "other"},
	} {
		got := ""
		if err := without(test.err, buyer.ErrBudget); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%v: got %q, want %q", test.err, got, test.want)
		}
	}
}
