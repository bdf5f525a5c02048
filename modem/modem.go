// Package modem talks to a cellular modem on its AT port: who the SIM is, what
// the network says, how strong it is.
//
//	found, err := modem.Find(ctx, modem.FindConfig{}) // or Watch, which goes on
//	m, err := modem.Open(ctx, modem.Config{Port: found[0].Port})
//	id, err := m.Identity(ctx)   // waits for the card, enters its PIN
//	status, err := m.Status(ctx) // whatever the state of the card
//	<-m.Done()                   // the port has vanished: open another one
//
// It promises that no call outlives its context, whatever the modem does; that
// no unsolicited line and no late answer is taken for the answer to a command;
// that a PIN which may be wrong is sent to a card once, ever; and that neither
// the IMSI nor the PIN shows in a log or an error.
//
// It only reads, apart from the PIN: it does not reset the modem, choose a
// network or set up a connection. The port must be its own: a second program on
// it mixes up the answers, so Find leaves alone what others have open.
package modem

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/warthog618/modem/at"
)

// Config says which modem, and how patient to be with it.
type Config struct {
	// Port is the tty with the AT interface, such as /dev/ttyUSB2.
	Port string
	// Baud is its speed, 115200 when zero. USB modems do not care.
	Baud int
	// PIN unlocks the SIM if it asks for one. The zero PIN: it must not ask. It
	// is sent with two tries left or more; if the modem cannot tell how many
	// there are, once to a card that never got it.
	PIN PIN
	// PINGuard is the file that records which PINs were sent to which cards.
	// It is needed with PIN, and must outlive a restart of the machine.
	PINGuard string
	// Timeout is how long the modem may take for one answer, 10 s when zero.
	Timeout time.Duration
	// SIMWait is how long Identity waits for a card that is still starting, 30 s
	// when zero.
	SIMWait time.Duration
	// Open opens the port, also after a time-out. Nil opens the tty Port. What
	// it returns is closed by the Modem; Close must end a blocked Read.
	Open func(context.Context) (io.ReadWriteCloser, error)
	// Logger gets Debug lines only, never a number of the SIM. Nil discards.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	switch {
	case c.Port == "" && c.Open == nil:
		return c, errors.New("modem: Port: missing")
	case c.Baud < 0:
		return c, fmt.Errorf("modem: Baud: %d is negative", c.Baud)
	case !c.PIN.IsZero() && c.PINGuard == "":
		return c, errors.New("modem: PINGuard: needed with PIN")
	case c.Timeout < 0 || c.SIMWait < 0:
		return c, errors.New("modem: Timeout and SIMWait: must not be negative")
	}
	if c.Baud == 0 {
		c.Baud = 115200
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.SIMWait == 0 {
		c.SIMWait = 30 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Open == nil {
		port, baud := c.Port, c.Baud
		c.Open = func(context.Context) (io.ReadWriteCloser, error) { return openTTY(port, baud) }
	}
	return c, nil
}

// A Modem is one open AT port. Its methods may be called from any goroutine;
// one goroutine, the owner, runs them one after the other.
type Modem struct {
	cfg      Config
	requests chan request  // received by the owner; the sender waits
	stop     chan struct{} // closed by Close: the owner gives up
	done     chan struct{} // closed by the owner when it has ended
	closing  sync.Once
	running  sync.WaitGroup

	// What follows is the owner's.
	link        *link // nil after a time-out
	gone        bool
	device      device
	imsi        IMSI                 // as last read; zero: not yet
	ready       bool                 // the card was ready when last asked
	unconfirmed string               // the card that got the PIN and was not seen open since
	skip        map[string]time.Time // commands that this modem does not know, and when to ask again
	locked      *Bands               // the lock that was set last from here
}

// A request is work for the owner. The reply is dropped when nobody waits.
type request struct {
	work  func() error
	reply chan error // holds one
}

// Open opens the port and gets the modem to answer. The SIM need not be there.
// ctx bounds Open only; Close ends the Modem.
func Open(ctx context.Context, cfg Config) (*Modem, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	m := &Modem{
		cfg:      cfg,
		requests: make(chan request),
		stop:     make(chan struct{}),
		done:     make(chan struct{}),
		skip:     make(map[string]time.Time),
	}
	m.running.Go(m.run)
	if err := m.do(ctx, func() error { return m.connect(ctx) }); err != nil {
		m.end(ctx.Done())
		return nil, err
	}
	return m, nil
}

// Done is closed when the port has vanished, could not be opened again after a
// time-out, or was closed.
func (m *Modem) Done() <-chan struct{} { return m.done }

// Close closes the port. Calls under way return ErrGone. It may take 2 s when
// the device hangs. More calls do nothing.
func (m *Modem) Close() error {
	m.end(nil)
	return nil
}

// end stops the owner and waits for it, at most until impatient.
func (m *Modem) end(impatient <-chan struct{}) {
	m.closing.Do(func() { close(m.stop) })
	select {
	case <-m.done:
		m.running.Wait()
	case <-impatient:
	}
}

// run is the owner: nothing else touches the link.
func (m *Modem) run() {
	defer close(m.done)
	defer m.drop()
	for !m.gone {
		var vanished <-chan struct{} // nil, and so never, while there is no link
		if m.link != nil {
			vanished = m.link.at.Closed()
		}
		select {
		case <-m.stop:
			return
		case <-vanished:
			return
		case r := <-m.requests:
			r.reply <- r.work()
		}
	}
}

// do has the owner run work, and leaves when ctx ends. The owner then finishes
// the command that is under way: its answer must not meet the next one.
func (m *Modem) do(ctx context.Context, work func() error) error {
	r := request{work: work, reply: make(chan error, 1)}
	var err error
	select {
	case m.requests <- r:
		select {
		case err = <-r.reply:
		case <-ctx.Done():
			err = ctx.Err()
		}
	case <-m.done:
		err = ErrGone
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("modem: %w", err)
	}
	return nil
}

// command runs one AT command. The owner's methods all go through here, or
// through commandFor when the modem may take longer than Config.Timeout.
func (m *Modem) command(ctx context.Context, cmd string) ([]string, error) {
	return m.commandFor(ctx, cmd, m.cfg.Timeout)
}

func (m *Modem) commandFor(ctx context.Context, cmd string, limit time.Duration) ([]string, error) {
	return m.exchange(ctx, cmd, limit, func() ([]string, error) {
		return m.link.at.Command(cmd, at.WithTimeout(limit))
	})
}

// exchange runs call, which sends cmd by the at package.
func (m *Modem) exchange(ctx context.Context, cmd string, limit time.Duration, call func() ([]string, error)) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if m.link == nil {
		if err := m.reconnect(ctx); err != nil {
			return nil, err
		}
	}
	start := time.Now()
	lines, err := m.link.run(m.stop, limit, call)
	m.cfg.Logger.DebugContext(ctx, "command", "at", label(cmd), "took", time.Since(start), "lines", len(lines), "err", err)
	switch {
	case err == nil:
		return lines, nil
	case errors.Is(err, ErrTimeout):
		m.drop()
	case errors.Is(err, ErrGone):
		m.gone = true
	}
	return nil, fmt.Errorf("AT%s: %w", label(cmd), err)
}

// reconnect opens the port again after a time-out. A port that cannot be opened
// any more is gone; a modem that still does not answer is not.
func (m *Modem) reconnect(ctx context.Context) error {
	err := m.connect(ctx)
	switch {
	case err == nil || ctx.Err() != nil || errors.Is(err, ErrTimeout):
		return err
	case errors.Is(err, ErrGone):
	default:
		err = fmt.Errorf("%w: %v", ErrGone, err) // the cause is for humans: callers open another port
	}
	m.gone = true
	return err
}

// label is cmd as it may be shown: without the PIN, and without the codes of
// USSD, which may be those of vouchers.
func label(cmd string) string {
	for _, secret := range []string{"+CPIN=", "+CUSD="} {
		if name, _, ok := strings.Cut(cmd, secret); ok {
			return name + secret
		}
	}
	return cmd
}

// ask runs cmd and has take look for the answer in its lines. An answer without
// it, or a bare ERROR, may be the end of an earlier command's: some modems send
// a second final line. So it tries again, once, after a silence.
func (m *Modem) ask(ctx context.Context, cmd string, take func(lines []string) bool) error {
	for try := 1; ; try++ {
		lines, err := m.command(ctx, cmd)
		if err == nil {
			if take(lines) {
				return nil
			}
			err = fmt.Errorf("AT%s: %w", label(cmd), errSilent)
		}
		if try == 2 || !errors.Is(err, errRefused) && !errors.Is(err, errSilent) {
			return err
		}
		if err := m.silence(ctx, settleTime); err != nil {
			return err
		}
	}
}

// skipTime is how long a command that the modem refused, or hung on, is left
// out. A hang may have had another cause.
const skipTime = time.Hour

// try asks what not every modem knows, and says whether there was an answer. A
// command without one is left out for skipTime, or until the card changes its
// state. Errors are those that end the whole call.
func (m *Modem) try(ctx context.Context, cmd string, take func(lines []string) bool) (bool, error) {
	if time.Now().Before(m.skip[cmd]) {
		return false, nil
	}
	err := m.ask(ctx, cmd, take)
	if err == nil {
		return true, nil
	}
	cme, _ := errors.AsType[CMEError](err)
	switch {
	case errors.Is(err, ErrTimeout):
		// Is it the modem or the command? What follows would tell too, but
		// would then be blamed itself.
		if m.link == nil {
			if err := m.reconnect(ctx); err != nil {
				return false, err
			}
		}
	case !soft(err):
		return false, err
	case !errors.Is(err, errRefused) && cme.Code != cmeNotSupported:
		return false, nil // the card's state, not the command
	}
	m.skip[cmd] = time.Now().Add(skipTime)
	return false, nil
}
