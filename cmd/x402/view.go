package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
)

// How often each kind of view says how things stand.
const (
	liveEvery  = 250 * time.Millisecond
	plainEvery = 5 * time.Second
	jsonEvery  = time.Second
)

// A view shows a purchase while it runs: lines redrawn in place on a terminal,
// plain lines elsewhere, or JSON. One goroutine, run, writes; nobody else waits
// for a slow terminal.
type view struct {
	out    io.Writer
	json   bool
	width  func() int // columns of the terminal; nil: out is none
	budget channel.Amount
	given  given // for the commands that texts suggest
	forced bool  // the user chose the transport
	// aside takes, with json, what is said to people in passing.
	aside io.Writer
	// connected is called once, before the first connected status is shown.
	connected func(buyer.Status) error

	news  chan buyer.Status // the newest; it replaces one that was not yet shown
	notes chan string       // lines to show above the redrawn ones; full: dropped

	// Owned by run.
	now   buyer.Status
	shown buyer.Status // plain: what the last line said
	ready bool         // connected has been called
	way   way          // that was told last
	paid  []string     // relays that were told to be paid
	drawn int          // lines on the terminal that the next ones replace
}

func newView(out io.Writer) *view {
	return &view{out: out, aside: io.Discard, news: make(chan buyer.Status, 1), notes: make(chan string, 64)}
}

// status takes over a status. It never blocks.
func (v *view) status(s buyer.Status) {
	for {
		select {
		case v.news <- s:
			return
		default:
		}
		select {
		case <-v.news:
		default:
		}
	}
}

// Write takes a log's lines. It never blocks: what does not fit is dropped.
func (v *view) Write(p []byte) (int, error) {
	select {
	case v.notes <- strings.TrimRight(string(p), "\n"):
	default:
	}
	return len(p), nil
}

// run shows until ctx ends, then once more, and leaves the terminal on a fresh
// line. An error is the connected function's.
func (v *view) run(ctx context.Context) error {
	every := plainEvery
	switch {
	case v.json:
		every = jsonEvery
	case v.width != nil:
		every = liveEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case s := <-v.news:
			if err := v.take(s); err != nil {
				return err
			}
		case n := <-v.notes:
			v.note(n)
		case <-tick.C:
			v.show()
		case <-ctx.Done():
			return v.last()
		}
	}
}

// last shows what came in before the end.
func (v *view) last() error {
	for {
		select {
		case s := <-v.news:
			if err := v.take(s); err != nil {
				return err
			}
		case n := <-v.notes:
			v.note(n)
		default:
			if v.width != nil || v.json {
				v.show()
			}
			return nil
		}
	}
}

func (v *view) take(s buyer.Status) error {
	s.Error, s.Notice = v.given.echo(plain(s.Error)), v.given.echo(plain(s.Notice))
	resumed := s.Resumed && !v.now.Resumed
	v.now = s
	if s.State == "connected" && !v.ready {
		v.ready = true
		if v.connected != nil {
			if err := v.connected(s); err != nil {
				return err
			}
		}
	}
	for _, r := range s.Relays {
		if !slices.Contains(v.paid, r.Relay) {
			v.paid = append(v.paid, r.Relay)
			v.tell(fmt.Sprintf("paying the relay %s, which asks %s USD per GB", r.Relay, r.Price.USD()))
		}
	}
	if w := (way{s.Transport, s.Relay}); s.Transport != "" {
		if news := wayNews(v.way, w, v.forced); news != "" {
			v.tell(news)
		}
		v.way = w
	}
	if resumed {
		v.tell("came back by the ticket of the last session (0-RTT)")
	}
	if v.width == nil && !v.json && (s.State != v.shown.State || trouble(s) != trouble(v.shown)) {
		v.show()
	}
	return nil
}

// show writes the present status. Whoever cannot read it misses it: a broken
// terminal is no reason to end a purchase.
func (v *view) show() {
	v.shown = v.now
	switch {
	case v.json:
		b, err := json.Marshal(v.now)
		if err == nil {
			fmt.Fprintf(v.out, "%s\n", b)
		}
	case v.width != nil:
		lines := liveLines(v.now, v.budget, v.width())
		fmt.Fprint(v.out, erase(v.drawn)+strings.Join(lines, "\n")+"\n")
		v.drawn = len(lines)
	default:
		fmt.Fprintln(v.out, plainLine(v.now, v.budget))
	}
}

// tell says something in passing.
func (v *view) tell(text string) {
	if v.json {
		fmt.Fprintln(v.aside, printable(text))
		return
	}
	v.note(text)
}

// note writes a line above the redrawn ones.
func (v *view) note(text string) {
	if v.json {
		return
	}
	fmt.Fprint(v.out, erase(v.drawn)+printable(text)+"\n")
	v.drawn = 0
	if v.width != nil {
		v.show()
	}
}

// erase goes up n lines and clears to the end of the screen (ECMA-48: CPL, ED).
func erase(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("\x1b[%dF\x1b[J", n)
}
