package chaos

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long anything may take that should happen by itself.
const patience = 2 * time.Minute

// A hub is told what happens, so that instants are found by events and not by
// time: bytes that were carried, and lines that programs print.
type hub struct {
	mu    sync.Mutex
	next  chan struct{} // closed and replaced at every event
	bytes uint64
	lines []printed
}

// printed is one line of a program. What it was before it was killed counts
// for the program that is started in its place.
type printed struct{ by, text string }

func newHub() *hub { return &hub{next: make(chan struct{})} }

func (h *hub) tell(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
	close(h.next)
	h.next = make(chan struct{})
}

func (h *hub) carried(n int) { h.tell(func() { h.bytes += uint64(n) }) }

// reach waits until cond holds and returns true, or, if bytes is not zero,
// until so many more were carried. It returns false if that came first or if
// nothing came in time. A nil cond is reached by the bytes.
func (h *hub) reach(ctx context.Context, bytes uint64, cond func(*hub) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	h.mu.Lock()
	end := h.bytes + bytes
	for {
		switch {
		case cond != nil && cond(h):
			h.mu.Unlock()
			return true
		case bytes > 0 && h.bytes >= end:
			h.mu.Unlock()
			return cond == nil
		}
		next := h.next
		h.mu.Unlock()
		select {
		case <-next:
		case <-ctx.Done():
			return false
		}
		h.mu.Lock()
	}
}

// line is the condition that a program prints a line with text from now on.
func (h *hub) line(by, text string) func(*hub) bool {
	h.mu.Lock()
	seen := len(h.lines)
	h.mu.Unlock()
	return func(h *hub) bool {
		for ; seen < len(h.lines); seen++ {
			if l := h.lines[seen]; l.by == by && strings.Contains(l.text, text) {
				return true
			}
		}
		return false
	}
}

// saw is whether cond holds now.
func (h *hub) saw(cond func(*hub) bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return cond(h)
}

// gone is whether p has ended. It is asked within reach.
func (h *hub) gone(p *program) bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// tails are the last lines that were logged, for a failure.
func (h *hub) tails() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var last []string
	for i := len(h.lines) - 1; i >= 0 && len(last) < 60; i-- {
		if l := h.lines[i]; !strings.HasPrefix(l.text, `{"state"`) {
			last = append([]string{l.by + ": " + l.text}, last...)
		}
	}
	return strings.Join(last, "\n")
}

// all is everything that was printed.
func (h *hub) all() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b strings.Builder
	for _, l := range h.lines {
		fmt.Fprintf(&b, "%-11s %s\n", l.by, l.text)
	}
	return b.String()
}

// A program is one of the three, in its present process.
type program struct {
	name string
	hub  *hub
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended and its output is read
	err  error         // of Wait; read after done
	out  func(line string)
}

// start runs cmd as the program's next process. Each line of its output is
// told to the hub; out, if there is one, gets those of the standard output first.
func (p *program) start(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	stdout, err := cmd.StdoutPipe()
	stderr, err2 := cmd.StderrPipe()
	if err := errors.Join(err, err2, cmd.Start()); err != nil {
		t.Fatalf("start %s: %v", p.name, err)
	}
	done := make(chan struct{})
	p.cmd, p.done, p.err = cmd, done, nil
	var reading sync.WaitGroup
	reading.Go(func() { p.read(stdout, p.out) })
	reading.Go(func() { p.read(stderr, nil) })
	var waiting sync.WaitGroup
	waiting.Go(func() {
		reading.Wait()
		err := cmd.Wait()
		p.hub.tell(func() {
			p.err = err
			p.hub.lines = append(p.hub.lines, printed{p.name, fmt.Sprintf("(the process has ended: %v)", cmd.ProcessState)})
			close(done)
		})
	})
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // if a failure left it running
		waiting.Wait()
	})
}

func (p *program) read(r io.Reader, out func(string)) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if out != nil {
			out(lines.Text())
		}
		p.hub.tell(func() { p.hub.lines = append(p.hub.lines, printed{p.name, lines.Text()}) })
	}
}

// kill ends the process as a power cut would, and waits for that.
func (p *program) kill() {
	_ = p.cmd.Process.Signal(os.Kill) // it may have ended by itself
	<-p.done
}

// interrupt asks it to end in order.
func (p *program) interrupt() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
}

// stop asks it to end in order and waits for that.
func (p *program) stop(ctx context.Context, t testing.TB) {
	t.Helper()
	p.interrupt()
	if !p.hub.reach(ctx, 0, func(h *hub) bool { return h.gone(p) }) {
		t.Fatalf("%s does not end\n%s", p.name, p.hub.tails())
	}
	if p.err != nil {
		t.Errorf("%s: %v\n%s", p.name, p.err, p.hub.tails())
	}
}
