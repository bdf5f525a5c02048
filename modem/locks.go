package modem

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A Mode says which technologies a modem may use.
type Mode uint8

// The modes. A modem may be in another one, which is AnyMode's neighbour at
// best, and is read as OtherMode.
const (
	OtherMode Mode = iota
	AnyMode
	GSMOnly
	UMTSOnly
	LTEOnly
	NROnly
	LTEAndNR
	modes
)

func (m Mode) String() string {
	switch m {
	case AnyMode:
		return "any"
	case GSMOnly:
		return "2g"
	case UMTSOnly:
		return "3g"
	case LTEOnly:
		return "4g"
	case NROnly:
		return "5g"
	case LTEAndNR:
		return "4g+5g"
	}
	return "other"
}

// ParseMode reads what String writes.
func ParseMode(s string) (Mode, error) {
	for m := AnyMode; m < modes; m++ {
		if s == m.String() {
			return m, nil
		}
	}
	return OtherMode, fmt.Errorf("mode: %q is none of any, 2g, 3g, 4g, 5g and 4g+5g", s)
}

// A modeLock is how a maker's modems are told which technologies to use.
type modeLock struct {
	get    string // the command that asks
	prefix string // of its answer
	field  int    // of the answer that has the code
	set    string // the command that sets, with %s for the code
	// codes by Mode; "" for what the modem cannot, "|" between several that mean
	// the same: the first that the modem takes.
	codes [modes]string
	frame
}

// A frame is what goes before and after a setting.
type frame struct{ before, after []string }

// Mode asks which technologies the modem may use.
func (m *Modem) Mode(ctx context.Context) (mode Mode, err error) {
	err = m.do(ctx, func() error {
		lock, err := m.modeLock(ctx)
		if err != nil {
			return err
		}
		got, err := m.readMode(ctx, lock)
		mode = got
		return err
	})
	if err != nil {
		return OtherMode, err
	}
	return mode, nil
}

// SetMode has the modem use only the technologies of mode, and reads that back.
// It keeps them over a restart. ErrUnsupported: it cannot.
func (m *Modem) SetMode(ctx context.Context, mode Mode) error {
	return m.do(ctx, func() error {
		lock, err := m.modeLock(ctx)
		if err != nil {
			return err
		}
		if mode >= modes || lock.codes[mode] == "" {
			return fmt.Errorf("mode %s: %w", mode, ErrUnsupported)
		}
		return m.framed(ctx, lock.frame, func() error { return m.setMode(ctx, lock, mode) })
	})
}

func (m *Modem) setMode(ctx context.Context, lock *modeLock, mode Mode) error {
	var err error
	for code := range strings.SplitSeq(lock.codes[mode], "|") {
		if _, err = m.commandFor(ctx, fmt.Sprintf(lock.set, code), radioTime); err == nil || !soft(err) {
			break
		}
	}
	if err != nil && !errors.Is(err, errRefused) {
		return err
	}
	got := OtherMode
	unverified := UnverifiedError{Op: "mode " + mode.String(), Want: mode.String()}
	seen := m.verify(ctx, settingTime, unverified, func() (bool, error) {
		now, err := m.readMode(ctx, lock)
		got = now
		return now == mode, err
	})
	if seen != nil && err != nil {
		return err
	}
	return withGot(seen, got.String())
}

// withGot completes an UnverifiedError with what was seen last.
func withGot(err error, got string) error {
	if u, ok := errors.AsType[UnverifiedError](err); ok {
		u.Got = got
		return u
	}
	return err
}

func (m *Modem) modeLock(ctx context.Context) (*modeLock, error) {
	if err := m.readDevice(ctx); err != nil {
		return nil, err
	}
	lock := m.device.dialect().mode
	if lock == nil {
		return nil, fmt.Errorf("mode: %w", ErrUnsupported)
	}
	return lock, nil
}

func (m *Modem) readMode(ctx context.Context, lock *modeLock) (mode Mode, err error) {
	err = m.ask(ctx, lock.get, func(lines []string) (ok bool) {
		mode, ok = lock.parse(lines)
		return ok
	})
	return mode, err
}

// parse finds the code in the answer. A setting that stands first in the answer,
// in quotes, has to be the one that was asked for.
func (l *modeLock) parse(lines []string) (mode Mode, ok bool) {
	_, name, _ := strings.Cut(l.get, `="`)
	name = strings.TrimSuffix(name, `"`)
	for _, line := range lines {
		rest, is := after(line, l.prefix)
		f := fields(rest)
		if !is || len(f) <= l.field || name != "" && f[0] != name {
			continue
		}
		mode, ok = OtherMode, true
		for m := AnyMode; m < modes; m++ {
			if slices.Contains(strings.Split(l.codes[m], "|"), f[l.field]) && l.codes[m] != "" {
				mode = m
				break
			}
		}
	}
	return mode, ok
}

// framed does work between a frame's commands. Those after it are sent whatever
// happens, since some modems take settings only off the network.
func (m *Modem) framed(ctx context.Context, f frame, work func() error) error {
	for _, cmd := range f.before {
		if _, err := m.commandFor(ctx, cmd, radioTime); err != nil && !soft(err) {
			return err
		}
	}
	err := work()
	for _, cmd := range f.after {
		if _, after := m.commandFor(context.WithoutCancel(ctx), cmd, copsTime); after != nil && !soft(after) {
			m.lastWord(cmd)
			return errors.Join(err, after)
		}
	}
	return err
}
