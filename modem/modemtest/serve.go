package modemtest

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Dial opens the modem's port as one end of a net.Pipe; Run serves the other. It
// fits modem.Config.Open. The newest Dial has the port.
func (m *Modem) Dial(ctx context.Context) (io.ReadWriteCloser, error) {
	plugged, _, changed := m.watch()
	if !plugged {
		return nil, ErrUnplugged
	}
	client, server := net.Pipe()
	select {
	case m.dials <- server:
		return client, nil
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), client.Close(), server.Close())
	case <-changed:
		return nil, errors.Join(ErrUnplugged, client.Close(), server.Close())
	}
}

// Run serves Dial until ctx ends, and then returns nil. Unplugging ends a
// connection, not Run.
func (m *Modem) Run(ctx context.Context) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	leave := func() {}
	for {
		select {
		case <-ctx.Done():
			leave()
			return nil
		case conn := <-m.dials:
			leave()
			conns.Wait()
			var connCtx context.Context
			connCtx, leave = context.WithCancel(ctx)
			conns.Go(func() { m.Serve(connCtx, conn) })
		}
	}
}

// A chunk is a piece of an answer, and the pause before it.
type chunk struct {
	pause time.Duration
	text  string
}

// Serve answers commands on rw until ctx ends or the other side leaves, which
// return nil, or until the modem is unplugged. If rw is an io.Closer it is
// closed then; Serve needs that to end while it reads.
func (m *Modem) Serve(ctx context.Context, rw io.ReadWriter) error {
	g, ctx := errgroup.WithContext(ctx)
	// The three loops are joined by channels that hold as much as a port's
	// buffers do, and block when they are full: a slow answer holds up the next
	// command, not its echo.
	commands := make(chan string, 64)
	output := make(chan string, 64)
	g.Go(func() error { return m.read(ctx, rw, commands, output) })
	g.Go(func() error { return m.work(ctx, commands, output) })
	g.Go(func() error { return m.write(ctx, rw, output) })
	g.Go(func() error {
		err := m.untilUnplugged(ctx)
		if c, ok := rw.(io.Closer); ok {
			err = errors.Join(err, c.Close())
		}
		return err
	})
	err := g.Wait()
	if errors.Is(err, ErrUnplugged) {
		return ErrUnplugged
	}
	return nil // the other side left, in one way or another
}

func (m *Modem) untilUnplugged(ctx context.Context) error {
	for {
		plugged, _, changed := m.watch()
		if !plugged {
			return ErrUnplugged
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// read echoes what comes and cuts it into commands.
func (m *Modem) read(ctx context.Context, r io.Reader, commands, output chan<- string) error {
	var line strings.Builder
	buf := make([]byte, 256)
	for {
		if err := m.untilAwake(ctx); err != nil {
			return err
		}
		n, err := r.Read(buf)
		if err != nil {
			return err
		}
		if err := m.untilAwake(ctx); err != nil {
			return err
		}
		if m.booting() {
			line.Reset()
			continue
		}
		if m.echoes() {
			if err := send(ctx, output, string(buf[:n])); err != nil {
				return err
			}
		}
		for _, c := range buf[:n] {
			if err := m.take(ctx, c, &line, commands); err != nil {
				return err
			}
		}
	}
}

// take adds a byte to the line, or hands the finished one over: a command, or
// after a prompt a short message, marked by the byte that ends it.
func (m *Modem) take(ctx context.Context, c byte, line *strings.Builder, commands chan<- string) error {
	const sub, esc = 0x1a, 0x1b
	text := strings.TrimSpace(line.String())
	switch {
	case m.prompted(c == sub || c == esc):
		if c == sub || c == esc {
			line.Reset()
		} else {
			line.WriteByte(c)
		}
		if c == sub {
			return send(ctx, commands, string(rune(sub))+text)
		}
	case c == '\r' || c == '\n':
		line.Reset()
		if len(text) >= 2 && strings.EqualFold(text[:2], "AT") {
			return send(ctx, commands, text[2:])
		}
	case c >= ' ' && line.Len() < 1024:
		line.WriteByte(c)
	}
	return nil
}

// prompted says whether a short message is being taken, and ends that if over.
func (m *Modem) prompted(over bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.prompting
	m.prompting = was && !over
	return was
}

func (m *Modem) booting() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Since(m.since) < m.cfg.Faults.Boot
}

// untilAwake waits while the modem hangs.
func (m *Modem) untilAwake(ctx context.Context) error {
	for {
		_, hangs, changed := m.watch()
		if !hangs {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *Modem) echoes() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.echo
}

// work answers one command after the other.
func (m *Modem) work(ctx context.Context, commands <-chan string, output chan<- string) error {
	for {
		select {
		case cmd := <-commands:
			for _, c := range m.answer(cmd) {
				if err := pause(ctx, c.pause); err != nil {
					return err
				}
				if err := send(ctx, output, c.text); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *Modem) write(ctx context.Context, w io.Writer, output <-chan string) error {
	for {
		var text string
		select {
		case text = <-output:
		case text = <-m.said:
		case <-ctx.Done():
			return ctx.Err()
		}
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func send(ctx context.Context, to chan<- string, value string) error {
	select {
	case to <- value:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
