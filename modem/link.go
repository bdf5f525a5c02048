package modem

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/warthog618/modem/at"
)

const (
	// hangTime is how much later than its time-out the at package may return:
	// it does not watch its writes.
	hangTime = time.Second
	// closeTime is how long closing a port may take. The kernel drains a tty
	// for up to 30 s when its device hangs; that goes on without us.
	closeTime = 2 * time.Second
	// settleTime is how long the line must be silent before a stray answer is
	// taken to be over.
	settleTime = 300 * time.Millisecond
	// probeTime is how long the first commands on a port wait.
	probeTime = 2 * time.Second
)

// A link is one open port with the at package on it. After a time-out it is
// closed, never reused: the late answer would be that of the next command.
type link struct {
	at   *at.AT
	wire *wire
	// work counts what is inside the at package. A hung port keeps it from
	// reaching zero, so nobody waits for it without a limit.
	work sync.WaitGroup
}

func newLink(port io.ReadWriteCloser) *link {
	w := newWire(port)
	return &link{at: at.New(w), wire: w}
}

type answer struct {
	lines []string
	err   error
}

// exec runs one command, for limit and hangTime at most, or until stop.
func (l *link) exec(stop <-chan struct{}, cmd string, limit time.Duration) ([]string, error) {
	return l.run(stop, limit, func() ([]string, error) { return l.at.Command(cmd, at.WithTimeout(limit)) })
}

// run runs call, which goes into the at package, in the same way.
func (l *link) run(stop <-chan struct{}, limit time.Duration, call func() ([]string, error)) ([]string, error) {
	answers := make(chan answer, 1) // takes the one answer, wanted or not
	l.work.Go(func() {
		lines, err := call()
		answers <- answer{lines, fromAT(err)}
	})
	hung := time.NewTimer(limit + hangTime)
	defer hung.Stop()
	select {
	case a := <-answers:
		return a.lines, a.err
	case <-hung.C:
		return nil, ErrTimeout
	case <-stop:
		return nil, ErrGone
	}
}

// close closes the port and waits for what is inside the at package, but not
// longer than closeTime.
func (l *link) close() {
	l.work.Go(func() {
		l.wire.port.Close()
		<-l.at.Closed()
	})
	finished := make(chan struct{}) // closed by the waiter
	var waiter sync.WaitGroup
	waiter.Go(func() {
		defer close(finished)
		l.work.Wait()
	})
	late := time.NewTimer(closeTime)
	defer late.Stop()
	select {
	case <-finished:
	case <-late.C:
	}
}

// The methods below run in the owner only.

// connect opens the port and gets in step with the modem behind it.
func (m *Modem) connect(ctx context.Context) error {
	port, err := m.openPort(ctx)
	if err != nil {
		return err
	}
	m.link = newLink(port)
	if err := m.sync(ctx); err != nil {
		m.drop()
		return err
	}
	return nil
}

type opened struct {
	port io.ReadWriteCloser
	err  error
}

// openPort opens the port, which may hang in the kernel. One that opens after
// nobody wants it any more is closed at once; until then it would be in the way
// of the next one, so none is opened for a caller that has left.
func (m *Modem) openPort(ctx context.Context) (io.ReadWriteCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	result := make(chan opened)      // received once, or never
	abandoned := make(chan struct{}) // closed when never
	var opener sync.WaitGroup
	opener.Go(func() {
		port, err := m.cfg.Open(ctx)
		select {
		case result <- opened{port, err}:
		case <-abandoned:
			if err == nil {
				port.Close()
			}
		}
	})
	select {
	case r := <-result:
		return r.port, r.err
	case <-ctx.Done():
		close(abandoned)
		return nil, ctx.Err()
	case <-m.stop:
		close(abandoned)
		return nil, ErrGone
	}
}

// sync brings a modem in an unknown state to answer commands one by one: no
// echo, results in words, errors by number.
//
// Whatever was left on the line (half a command, a pending text message, the
// answer to a command of somebody before) must be over first. A probe without
// answer may still be answered, so after one that timed out the line has to be
// silent for longer than the modem took. ATZ is not sent: others share the
// modem's profile.
func (m *Modem) sync(ctx context.Context) error {
	link, start, late := m.link, time.Now(), false
	escape := func() ([]string, error) { link.at.Escape('\r', '\n'); return nil, nil }
	if _, err := link.run(m.stop, 0, escape); err != nil {
		return fmt.Errorf("AT: %w", err)
	}
	for _, limit := range []time.Duration{probeTime, probeTime, m.cfg.Timeout} {
		_, err := link.exec(m.stop, "Q0V1E0", limit)
		if err == nil || soft(err) {
			late = late || err != nil
			break
		}
		if late = true; !errors.Is(err, ErrTimeout) || limit == m.cfg.Timeout {
			return fmt.Errorf("AT: %w", err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if late {
		if err := m.silence(ctx, time.Since(start)+settleTime); err != nil {
			return err
		}
	}
	return m.check(ctx)
}

// check sets what later commands rely on, and asks for it back: an answer
// without its line is that of another command. A modem that refuses +CMEE says
// just ERROR to everything, which the SIM's state then explains.
func (m *Modem) check(ctx context.Context) error {
	for range 3 {
		for _, cmd := range []string{"E0", "V1", "+CMEE=1"} {
			if _, err := m.link.exec(m.stop, cmd, m.cfg.Timeout); err != nil && !soft(err) {
				return fmt.Errorf("AT%s: %w", cmd, err)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		lines, err := m.link.exec(m.stop, "+CMEE?", m.cfg.Timeout)
		if err != nil && !soft(err) {
			return fmt.Errorf("AT+CMEE?: %w", err)
		}
		if _, ok := parseDigits(lines, "+CMEE", 1, 1); ok {
			return nil
		}
		if err := m.silence(ctx, settleTime); err != nil {
			return err
		}
	}
	return nil
}

// silence waits until nothing has come for a while. The at package drops what
// comes between commands. A modem that never stops talking is waited for four
// times as long.
func (m *Modem) silence(ctx context.Context, quiet time.Duration) error {
	for end := time.Now().Add(4 * quiet); ; {
		left := min(quiet-m.link.wire.quiet(), time.Until(end))
		if left <= 0 {
			return nil
		}
		if err := m.pause(ctx, left); err != nil {
			return err
		}
	}
}

// pause waits for d, the end of ctx or the end of the Modem.
func (m *Modem) pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-m.stop:
		return ErrGone
	}
}

// drop closes the link; the next command opens the port anew.
func (m *Modem) drop() {
	if m.link != nil {
		m.link.close()
		m.link = nil
	}
}
