package modem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// RecoveryConfig says by what means a modem may be brought back.
type RecoveryConfig struct {
	// Root is /sys when empty.
	Root string
	// Power is cut as the last step, if there is a way.
	Power Power
	// File keeps what was done, so that a step which makes the router itself
	// restart is not taken for ever. It is written when a step is taken, some
	// times a day at worst. Empty: nothing is kept.
	File string
}

// A Recovery brings one modem back. One goroutine uses it.
//
// It takes one step at a time, each within bounds an hour and a day, and stops
// when all were in vain. It never restarts the machine, and never touches a card
// that is missing or locked.
type Recovery struct {
	cfg    RecoveryConfig
	ladder Ladder
	line   *os.File // of the GPIO, once it was used
}

// NewRecovery reads what was done before. A file that is damaged, or a wrong
// Power, is an error.
func NewRecovery(cfg RecoveryConfig) (*Recovery, error) {
	if cfg.Root == "" {
		cfg.Root = "/sys"
	}
	var err error
	if cfg.Power, err = cfg.Power.withDefaults(); err != nil {
		return nil, err
	}
	r := &Recovery{cfg: cfg}
	if cfg.File == "" {
		return r, nil
	}
	text, err := os.ReadFile(cfg.File)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if len(text) > 0 {
		if err := r.ladder.UnmarshalText(text); err != nil {
			return nil, fmt.Errorf("%w: remove %s, after a look at the modem", err, cfg.File)
		}
	}
	return r, nil
}

// Close lets a GPIO line go.
func (r *Recovery) Close() error {
	if r.line == nil {
		return nil
	}
	return r.line.Close()
}

// Again has the steps begin from the first, after the owner looked after the
// modem or changed its card.
func (r *Recovery) Again() { r.ladder = r.ladder.Again() }

// Attend is told how the modem is, decides, and takes a step if one is due: at
// most five minutes. m is the open Modem, nil when there is none; f is the modem
// as it was found last. Call it whenever something was read, and after
// Verdict.Wait. The error is that of the step: the verdict holds all the same.
func (r *Recovery) Attend(ctx context.Context, m *Modem, f Found, t Trouble) (Verdict, error) {
	now := time.Now()
	next, v := r.ladder.Next(Look{Now: now, Trouble: t, Can: r.can(m, f), Jitter: rand.Float64()})
	if v.Step == NoStep && (!v.Stopped || !r.ladder.stopped.IsZero()) {
		r.ladder = next
		return v, nil
	}
	// What is about to be done is on disk first: it may be the last thing that
	// this program does.
	if err := r.keep(next); err != nil {
		return Verdict{Trouble: t, Wait: bounds[Register].effect, Today: v.Today}, fmt.Errorf("%s: not done, since that could not be recorded: %w", v.Step, err)
	}
	r.ladder = next
	if v.Step == NoStep {
		return v, nil
	}
	if err := r.take(ctx, v.Step, m, f); err != nil {
		return v, fmt.Errorf("%s: %w", v.Step, err)
	}
	return v, nil
}

// can lists the steps that are possible now.
func (r *Recovery) can(m *Modem, f Found) (can []Step) {
	if m != nil {
		can = append(can, Register, Cycle, Restart)
	}
	if _, err := os.Stat(r.authorized(f)); err == nil {
		can = append(can, Reauthorize)
	}
	if !r.cfg.Power.IsZero() {
		can = append(can, PowerCycle)
	}
	return can
}

// authorized is the file by which the kernel takes a USB device or leaves it.
func (r *Recovery) authorized(f Found) string {
	path := f.Path
	if !usbPath(path) {
		path = "none"
	}
	return filepath.Join(r.cfg.Root, "bus/usb/devices", path, "authorized")
}

func (r *Recovery) keep(l Ladder) error {
	if r.cfg.File == "" {
		return nil
	}
	text, err := l.MarshalText()
	if err != nil {
		return err
	}
	return replace(r.cfg.File, text)
}

// usbOff is how long a device is off for the kernel: long enough for its
// drivers to let go.
const usbOff = 2 * time.Second

func (r *Recovery) take(ctx context.Context, s Step, m *Modem, f Found) (err error) {
	switch s {
	case Register:
		return m.Register(ctx)
	case Cycle:
		_, err = m.Rotate(ctx, HoldTime)
		return err
	case Restart:
		return m.Reset(ctx)
	case Reauthorize:
		file := r.authorized(f)
		return offAndOn(ctx, usbOff, func(on bool) error { return writeFile(file, map[bool]string{true: "1", false: "0"}[on]) })
	}
	r.line, err = r.cfg.Power.cycle(ctx, r.line)
	return err
}
