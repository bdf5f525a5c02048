package modem

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// Bands are those that a modem may use, by the numbers of 3GPP TS 36.101 clause
// 5.5 for LTE and TS 38.101 for 5G. Those of 2G and 3G are left as they are.
type Bands struct{ LTE, NR []int }

func (b Bands) String() string {
	if len(b.LTE)+len(b.NR) == 0 {
		return "all"
	}
	var words []string
	for _, n := range b.LTE {
		words = append(words, "b"+strconv.Itoa(n))
	}
	for _, n := range b.NR {
		words = append(words, "n"+strconv.Itoa(n))
	}
	return strings.Join(words, " ")
}

// ParseBands reads bands as String writes them, commas for spaces allowed.
func ParseBands(s string) (Bands, error) {
	var b Bands
	if s = strings.ToLower(strings.TrimSpace(s)); s == "all" {
		return b, nil
	}
	for _, word := range strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' }) {
		n := number(word[1:])
		switch {
		case n < 1 || n > maxBand || word[0] != 'b' && word[0] != 'n':
			return Bands{}, fmt.Errorf("bands: %q is neither like b3 nor n78, nor is all of it \"all\"", word)
		case word[0] == 'b':
			b.LTE = append(b.LTE, n)
		default:
			b.NR = append(b.NR, n)
		}
	}
	if len(b.LTE)+len(b.NR) == 0 {
		return Bands{}, errors.New("bands: none named")
	}
	return b.sorted(), nil
}

// maxBand is above every band that 3GPP has numbered.
const maxBand = 512

func (b Bands) sorted() Bands {
	for _, list := range []*[]int{&b.LTE, &b.NR} {
		*list = slices.Compact(slices.Sorted(slices.Values(*list)))
	}
	return b
}

// has says whether b is what was wanted: a list that is not given is open.
func (b Bands) has(want Bands) bool {
	return (len(want.LTE) == 0 || slices.Equal(b.LTE, want.LTE)) && (len(want.NR) == 0 || slices.Equal(b.NR, want.NR))
}

// A bandLock is how a maker's modems are told which bands to use.
type bandLock struct {
	get []string // the commands that ask
	// parse reads the lines of all their answers.
	parse func(lines []string) (Bands, bool)
	// set makes the commands for bands from the lines as they were read before,
	// none when the modem cannot. all, the zero Bands, is every band there is.
	set func(want Bands, lines []string) []string
	frame
}

// Bands asks which bands the modem may use.
func (m *Modem) Bands(ctx context.Context) (bands Bands, err error) {
	err = m.do(ctx, func() error {
		lock, err := m.bandLock(ctx)
		if err != nil {
			return err
		}
		bands, _, err = m.readBands(ctx, lock)
		return err
	})
	if err != nil {
		return Bands{}, err // bands may still be the owner's
	}
	return bands, nil
}

// SetBands has the modem use only these bands, and returns those that it says it
// uses then. A list that is empty leaves its technology alone; both empty ends
// the lock, which can be verified only if the modem then names other bands than
// those that were set before. ErrUnsupported: the modem cannot.
func (m *Modem) SetBands(ctx context.Context, want Bands) (got Bands, err error) {
	want = want.sorted()
	err = m.do(ctx, func() error {
		lock, err := m.bandLock(ctx)
		if err != nil {
			return err
		}
		now, lines, err := m.readBands(ctx, lock)
		if err != nil {
			return err
		}
		commands := lock.set(want, lines)
		if len(commands) == 0 {
			return fmt.Errorf("bands %s: %w", want, ErrUnsupported)
		}
		return m.framed(ctx, lock.frame, func() error {
			got, err = m.setBands(ctx, lock, bandChange{want, now, commands})
			return err
		})
	})
	if err != nil && ctx.Err() != nil {
		return Bands{}, err
	}
	return got, err
}

type bandChange struct {
	want, now Bands
	commands  []string
}

func (m *Modem) setBands(ctx context.Context, lock *bandLock, c bandChange) (got Bands, err error) {
	for _, cmd := range c.commands {
		if _, err := m.commandFor(ctx, cmd, radioTime); err != nil && !errors.Is(err, errRefused) {
			return got, err
		}
	}
	unverified := UnverifiedError{Op: "bands " + c.want.String(), Want: c.want.String()}
	err = m.verify(ctx, settingTime, unverified, func() (ok bool, err error) {
		got, _, err = m.readBands(ctx, lock)
		unlocks := len(c.want.LTE)+len(c.want.NR) == 0
		return got.has(c.want) && !(unlocks && m.locked != nil && got.has(*m.locked)), err
	})
	if err == nil {
		m.locked = nil
		if len(c.want.LTE)+len(c.want.NR) > 0 {
			m.locked = &c.want
		}
	}
	return got, withGot(err, got.String())
}

func (m *Modem) bandLock(ctx context.Context) (*bandLock, error) {
	if err := m.readDevice(ctx); err != nil {
		return nil, err
	}
	lock := m.device.dialect().bands
	if lock == nil {
		return nil, fmt.Errorf("bands: %w", ErrUnsupported)
	}
	return lock, nil
}

func (m *Modem) readBands(ctx context.Context, lock *bandLock) (bands Bands, all []string, err error) {
	for _, cmd := range lock.get {
		err := m.ask(ctx, cmd, func(lines []string) bool {
			_, ok := lock.parse(lines)
			if ok {
				all = append(all, lines...)
			}
			return ok
		})
		if err != nil {
			return Bands{}, nil, err
		}
	}
	bands, _ = lock.parse(all)
	return bands.sorted(), all, nil
}

// maskBands are the bands of a mask, whose lowest bit is band 1.
func maskBands(mask string, base int) ([]int, bool) {
	if len(mask) > maxBand {
		return nil, false
	}
	n, ok := new(big.Int).SetString(strings.TrimPrefix(strings.ToLower(mask), "0x"), base)
	if !ok || n.Sign() < 0 || n.BitLen() > maxBand {
		return nil, false
	}
	var bands []int
	for i := range n.BitLen() {
		if n.Bit(i) == 1 {
			bands = append(bands, i+1)
		}
	}
	return bands, true
}

// bandMask is the mask of bands.
func bandMask(bands []int) *big.Int {
	n := new(big.Int)
	for _, b := range bands {
		n.SetBit(n, b-1, 1)
	}
	return n
}

// answerFields are the fields of the last line with a prefix that has enough.
func answerFields(lines []string, prefix string, least int) (found []string, ok bool) {
	for _, line := range lines {
		if rest, is := after(line, prefix); is {
			if f := fields(rest); len(f) >= least {
				found, ok = f, true
			}
		}
	}
	return found, ok
}
