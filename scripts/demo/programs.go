package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	readyTime = 60 * time.Second // from a program's start to its use, also emulated
	stopTime  = 90 * time.Second // for an orderly end
	pollEvery = 20 * time.Millisecond
	tailLines = 8
)

// programs are the processes that the demo has started. Each is ended by its
// own process id.
type programs struct {
	dir    string    // for what they write
	mirror io.Writer // gets their log besides; nil: nobody
	// fail ends the demo when a program ends that was not asked to.
	fail context.CancelCauseFunc
	wg   sync.WaitGroup

	mu  sync.Mutex
	all []*program
}

// A program is one process, running or ended.
type program struct {
	name     string
	cmd      *exec.Cmd
	out, log *os.File      // its standard output and error
	expected atomic.Bool   // it is meant to end
	done     chan struct{} // closed when it has ended; err is set before
	err      error
}

// start runs argv. What it writes is kept in NAME.out and NAME.log; a program
// that is started again goes on in them.
func (p *programs) start(name string, argv ...string) (*program, error) {
	r := &program{name: name, cmd: exec.Command(argv[0], argv[1:]...), done: make(chan struct{})}
	var err error
	if r.out, err = p.file(name + ".out"); err != nil {
		return nil, err
	}
	if r.log, err = p.file(name + ".log"); err != nil {
		return nil, errors.Join(err, r.out.Close())
	}
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.log
	if p.mirror != nil {
		r.cmd.Stderr = io.MultiWriter(r.log, &prefixed{name: name, w: p.mirror})
	}
	ownGroup(r.cmd)
	if err := r.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), r.close())
	}
	p.mu.Lock()
	p.all = append(p.all, r)
	p.mu.Unlock()
	p.wg.Go(func() {
		r.err = errors.Join(r.cmd.Wait(), r.close())
		close(r.done)
		if !r.expected.Load() {
			p.fail(fmt.Errorf("%s has ended by itself: %s", name, r.ending()))
		}
	})
	return r, nil
}

func (p *programs) file(name string) (*os.File, error) {
	return os.OpenFile(filepath.Join(p.dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// end kills all programs that are left and waits for them.
func (p *programs) end() {
	p.mu.Lock()
	all := p.all
	p.mu.Unlock()
	for _, r := range all {
		r.signal(syscall.SIGKILL)
	}
	p.wg.Wait()
}

// tails returns the last lines of all logs, for a failure.
func (p *programs) tails() string {
	var text strings.Builder
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := map[string]bool{}
	for _, r := range p.all {
		b, err := os.ReadFile(r.log.Name())
		if lines := lastLines(b, tailLines); err == nil && lines != "" && !seen[r.name] {
			fmt.Fprintf(&text, "── %s\n%s", r.log.Name(), lines)
		}
		seen[r.name] = true
	}
	return text.String()
}

func lastLines(b []byte, n int) string {
	lines := bytes.SplitAfter(b, []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-1-n):], nil))
}

func (r *program) close() error { return errors.Join(r.out.Close(), r.log.Close()) }

func (r *program) signal(s os.Signal) {
	r.expected.Store(true)
	_ = r.cmd.Process.Signal(s) // it may have ended already
}

// ending is how the program ended, in its own last words if there are any.
func (r *program) ending() string {
	b, err := os.ReadFile(r.log.Name())
	if words := lastWords(b); err == nil && words != "" {
		return words
	}
	if r.err == nil {
		return "exit status 0"
	}
	return r.err.Error()
}

// lastWords is the line of b that says what went wrong: the last that is no
// hint.
func lastWords(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if line := strings.TrimSpace(lines[i]); line != "" && !strings.HasPrefix(line, "hint:") {
			return line
		}
	}
	return ""
}

// kill ends the program as a power cut would, and waits for that.
func (r *program) kill() {
	r.signal(syscall.SIGKILL)
	<-r.done
}

// stop asks the program to end in order and waits for that.
func (r *program) stop(ctx context.Context, s os.Signal) error {
	ctx, cancel := context.WithTimeoutCause(ctx, stopTime, fmt.Errorf("%s does not end", r.name))
	defer cancel()
	r.signal(s)
	select {
	case <-r.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if r.err != nil {
		return fmt.Errorf("%s: %s", r.name, r.ending())
	}
	return nil
}

// ready waits for the file that the program writes as soon as it can be used,
// and returns its content.
func (r *program) ready(ctx context.Context, path string) (text string, err error) {
	err = r.poll(ctx, func() (bool, error) {
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		text = strings.TrimSpace(string(b))
		return text != "", err
	})
	return text, err
}

// poll waits until done, as long as the program runs.
func (r *program) poll(ctx context.Context, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTime, fmt.Errorf("%s is not ready after %v", r.name, readyTime))
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-r.done:
			return fmt.Errorf("%s has ended: %s", r.name, r.ending())
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// call runs a command that answers and ends, and returns what it printed.
func (p *programs) call(ctx context.Context, argv ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	var out, log bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...) // killed when ctx ends
	cmd.Stdout, cmd.Stderr = &out, &log
	ownGroup(cmd)
	if err := cmd.Run(); err != nil {
		if words := lastWords(log.Bytes()); words != "" {
			return nil, errors.New(words)
		}
		return nil, fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
	}
	return out.Bytes(), nil
}

// ownGroup keeps the terminal's Ctrl-C from the process: the demo hears it and
// ends all of them.
func ownGroup(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// A prefixed writer puts a name before each line. Its owner is one process's
// output; w gets a line at a time.
type prefixed struct {
	name string
	w    io.Writer
	rest []byte
}

func (p *prefixed) Write(b []byte) (int, error) {
	p.rest = append(p.rest, b...)
	for {
		line, rest, found := bytes.Cut(p.rest, []byte("\n"))
		if !found {
			return len(b), nil
		}
		if _, err := fmt.Fprintf(p.w, "%-12s│ %s\n", p.name, line); err != nil {
			return 0, err
		}
		p.rest = rest
	}
}
