package modem

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A pinGuard is the file that keeps a wrong PIN from being sent twice. Each
// line is one pair of card and PIN:
//
//	v1 sent <salt> <SHA-256 of salt, ICCID and PIN>
//	v1 accepted <salt> <hash>
//
// A pair is written as sent before it is sent. It becomes accepted when the
// card was seen open afterwards; only then may it be sent again, and is sent
// once more before that. So after a crash in between it stays unsent.
//
// The hash hides nothing from somebody who can try all PINs; the file has mode
// 0600, as the config with the PIN itself should have.
type pinGuard struct{ path string }

const (
	guardSent     = "sent"
	guardAccepted = "accepted"
	guardLines    = 256 // no owner has that many cards; a loop somewhere has
)

type guardLine struct {
	state string
	salt  [16]byte
	sum   [sha256.Size]byte
}

func (l guardLine) String() string {
	return fmt.Sprintf("v1 %s %x %x", l.state, l.salt, l.sum)
}

func guardSum(salt [16]byte, iccid string, pin PIN) [sha256.Size]byte {
	// Neither number has a zero byte in it, so the parts cannot be mistaken.
	return sha256.Sum256([]byte(string(salt[:]) + iccid + "\x00" + *pin.digits))
}

func parseGuardLine(s string) (guardLine, bool) {
	var l guardLine
	f := strings.Fields(s)
	if len(f) != 4 || f[0] != "v1" || f[1] != guardSent && f[1] != guardAccepted {
		return l, false
	}
	l.state = f[1]
	salt, err1 := hex.DecodeString(f[2])
	sum, err2 := hex.DecodeString(f[3])
	if err1 != nil || err2 != nil || len(salt) != len(l.salt) || len(sum) != len(l.sum) {
		return l, false
	}
	copy(l.salt[:], salt)
	copy(l.sum[:], sum)
	return l, true
}

// sending records durably that pin is about to be sent to the card. It returns
// an error, and the PIN must not be sent, when it was sent before without being
// accepted, and when there is no telling.
func (g pinGuard) sending(iccid string, pin PIN) error {
	lines, err := g.load()
	if err != nil {
		return err
	}
	i := find(lines, iccid, pin)
	switch {
	case i >= 0 && lines[i].state == guardSent:
		return fmt.Errorf("%w before: not sent again; enter the right PIN by hand or in the config, or remove its line from %s", ErrPINRefused, g.path)
	case i >= 0:
		lines[i].state = guardSent
	case len(lines) >= guardLines:
		return fmt.Errorf("%w: not sent, %s is full", ErrPINRequired, g.path)
	default:
		l := guardLine{state: guardSent}
		rand.Read(l.salt[:]) // never fails
		l.sum = guardSum(l.salt, iccid, pin)
		lines = append(lines, l)
	}
	if err := g.store(lines); err != nil {
		return fmt.Errorf("%w: not sent, since that could not be recorded: %w", ErrPINRequired, err)
	}
	return nil
}

// accepted records that the card took the PIN.
func (g pinGuard) accepted(iccid string, pin PIN) error {
	lines, err := g.load()
	if err != nil {
		return err
	}
	if i := find(lines, iccid, pin); i >= 0 {
		lines[i].state = guardAccepted
	}
	if err := g.store(lines); err != nil {
		return fmt.Errorf("record that the card took the PIN: %w", err)
	}
	return nil
}

// find returns the place of a pair, -1 when it is not there.
func find(lines []guardLine, iccid string, pin PIN) int {
	for i, l := range lines {
		sum := guardSum(l.salt, iccid, pin)
		if hmac.Equal(sum[:], l.sum[:]) {
			return i
		}
	}
	return -1
}

// load reads the file. One that does not exist is empty; one that is damaged
// does not tell what was sent, so no PIN may be.
func (g pinGuard) load() ([]guardLine, error) {
	text, err := os.ReadFile(g.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: not sent: %w", ErrPINRequired, err)
	}
	return parseGuard(text, g.path)
}

func parseGuard(text []byte, path string) ([]guardLine, error) {
	var lines []guardLine
	for line := range strings.Lines(string(text)) {
		l, ok := parseGuardLine(line)
		if !ok || !strings.HasSuffix(line, "\n") {
			return nil, fmt.Errorf("%w: not sent, %s:%d is damaged", ErrPINRequired, path, len(lines)+1)
		}
		lines = append(lines, l)
	}
	return lines, nil
}

// store replaces the file and returns when that is on disk.
func (g pinGuard) store(lines []guardLine) error {
	var text bytes.Buffer
	for _, l := range lines {
		fmt.Fprintln(&text, l)
	}
	return replace(g.path, text.Bytes())
}

// replace writes a file beside path, syncs it, renames it over path and syncs
// the folder, so that a power cut leaves the old or the new one.
func replace(path string, text []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".new*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
