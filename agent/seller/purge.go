package seller

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/depinsim/x402/channel"
)

// An UnclaimedError says that buyers have paid what was not claimed yet.
type UnclaimedError struct {
	Amount   channel.Amount
	Channels int
}

func (e *UnclaimedError) Error() string {
	return fmt.Sprintf("%s USD of %d channels are not claimed", e.Amount.USD(), e.Channels)
}

// Purge removes what an agent has made in its state directory: vouchers, totals
// and keys. Nothing else in it is touched. The error Is channel.ErrInUse while
// the agent runs, and is an *UnclaimedError if money would be lost, unless that
// is wanted. The vouchers go first and the device key last, so that a Purge that
// was cut off can be done again.
func Purge(stateDir string, lose bool) error {
	lines, err := os.ReadDir(filepath.Join(stateDir, linesFolder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var unclaimed UnclaimedError
	for i := -1; i < len(lines); i++ {
		dir := stateDir
		if i >= 0 {
			dir = lineDir(stateDir, lines[i].Name())
		}
		dir = filepath.Join(dir, channelsFolder)
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		journal, err := channel.OpenJournal(dir)
		if err == nil {
			defer journal.Close() // locked until all is gone
			err = unclaimed.add(journal)
		}
		if err != nil && !(lose && errors.Is(err, channel.ErrCorrupt)) {
			return err
		}
	}
	if unclaimed.Channels > 0 && !lose {
		return &unclaimed
	}
	return removeState(stateDir)
}

func (e *UnclaimedError) add(journal *channel.Journal) error {
	states, err := journal.Load()
	if err != nil {
		return err
	}
	for _, s := range states {
		due, err := charged(s)
		if err != nil { // what cannot be told is not nothing
			due = s.Max
		}
		if due > s.Claimed {
			e.Channels++
			e.Amount = e.Amount.Plus(due - s.Claimed)
		}
	}
	return nil
}

func removeState(dir string) error {
	names := []string{channelsFolder, linesFolder, receiptsFile, receiptsOldFile, planFile, cardsFile, recoveryFile, pinGuardFile, offerSeqFile, offerFile, controlFile}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries { // what a power cut left of a file
		if name := e.Name(); name[0] == '.' && strings.Contains(name, ".new") {
			names = append(names, name)
		}
	}
	for _, name := range append(names, tunnelKeyFile, deviceKeyFile) {
		if err == nil {
			err = remove(filepath.Join(dir, name))
		}
	}
	os.Remove(dir) // it stays if there is more in it
	return err
}

// remove removes a file, or a directory with all in it: os.RemoveAll is 4 kB on
// the router.
func remove(path string) error {
	err := os.Remove(path)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	entries, rerr := os.ReadDir(path)
	if rerr != nil {
		return err
	}
	for _, e := range entries {
		if err := remove(filepath.Join(path, e.Name())); err != nil {
			return err
		}
	}
	return os.Remove(path)
}
