package seller

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
)

// Receipts are made when a session has ended, and kept in two files of which the
// older gives way: flash is small, and what is owed does not depend on them. The
// journal has all that the receipt of a channel's last session needs, so a crash
// loses none: it is made at the next start, or when the buyer is back.
//
//	end of a session  ─→ receipts, then the journal: the session has ended
//	start after a crash: what has not ended in the journal ─→ receipts
//	next hello: what its buyer proves beyond that ─→ receipts; in any case to him
const (
	receiptsFile    = "receipts"
	receiptsOldFile = "receipts.old"
	// A record is a receipt and its CRC-32C.
	receiptRecord = agent.ReceiptSize + 4
	// receiptsMost are in a file: both together have less than 256 KiB.
	receiptsMost = 320
)

// A receiptBook is the two files of a line. Each is open only while it is written.
type receiptBook struct {
	dir string

	mu      sync.Mutex // held across writes, which are rare
	syncs   uint64
	written uint64
}

// add appends a receipt and syncs it. What a power cut has left of the last one is
// written over.
func (b *receiptBook) add(r agent.Receipt) (err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	path := filepath.Join(b.dir, receiptsFile)
	n := int64(0)
	if info, err := os.Stat(path); err == nil {
		n = info.Size() / receiptRecord
	}
	if n >= receiptsMost {
		if err := os.Rename(path, filepath.Join(b.dir, receiptsOldFile)); err != nil {
			return err
		}
		n = 0
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	record := agent.AppendReceipt(make([]byte, 0, receiptRecord), r)
	record = binary.BigEndian.AppendUint32(record, crc32.Checksum(record, castagnoli))
	if _, err := f.WriteAt(record, n*receiptRecord); err != nil {
		return err
	}
	b.written += receiptRecord
	b.syncs++
	if err := f.Sync(); err != nil || n > 0 {
		return err
	}
	b.syncs++
	return channel.SyncDir(b.dir) // the file is new
}

// castagnoli is made once; crc32 keeps its own tables from then on.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// flash is what was written.
func (b *receiptBook) flash() (syncs, bytes uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.syncs, b.written
}

// read returns what is in the files, oldest first, and how many records in them
// are damaged. It may be called while another process writes.
func (b *receiptBook) read() (all []agent.KeptReceipt, damaged int, err error) {
	for _, name := range []string{receiptsOldFile, receiptsFile} {
		text, err := os.ReadFile(filepath.Join(b.dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return all, damaged, err
		}
		for ; len(text) >= receiptRecord; text = text[receiptRecord:] {
			r, err := agent.ParseReceipt(text[:agent.ReceiptSize])
			if err != nil || crc32.Checksum(text[:agent.ReceiptSize], castagnoli) != binary.BigEndian.Uint32(text[agent.ReceiptSize:]) {
				damaged++
				continue
			}
			all = append(all, agent.KeptReceipt{Receipt: r, Kept: r.Time})
		}
	}
	return all, damaged, nil
}

// last returns the newest receipt of a channel, if one is there.
func (b *receiptBook) last(s channel.State) (r agent.Receipt, ok bool, err error) {
	all, _, err := b.read()
	for _, kept := range all {
		if kept.Config == s.Config && kept.Domain == s.Domain && (!ok || kept.Total.Session > r.Total.Session || kept.Total.Session == r.Total.Session && kept.Supersedes(r)) {
			r, ok = kept.Receipt, true
		}
	}
	return r, ok, err
}

// Receipts returns the receipts in an agent's state directory, oldest first, of
// all its SIMs or of the one whose folder has a name, and how many records are
// damaged. The agent may run.
func Receipts(stateDir, sim string) (all []agent.KeptReceipt, damaged int, err error) {
	dirs := []string{stateDir}
	if sim != "" {
		dirs = []string{lineDir(stateDir, sim)}
		if _, err := os.Stat(dirs[0]); err != nil {
			return nil, 0, fmt.Errorf("SIM %s: %w", sim, err)
		}
	} else {
		lines, err := os.ReadDir(filepath.Join(stateDir, linesFolder))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, 0, err
		}
		for _, l := range lines {
			dirs = append(dirs, lineDir(stateDir, l.Name()))
		}
	}
	for _, dir := range dirs {
		some, bad, err := (&receiptBook{dir: dir}).read()
		if all, damaged = append(all, some...), damaged+bad; err != nil {
			return all, damaged, err
		}
	}
	return agent.LatestReceipts(all), damaged, nil
}

// receipt is that of a channel's last session, signed.
func (s *Seller) receipt(state channel.State, t agent.Tally) agent.Receipt {
	return agent.NewReceipt(state, t, uint64(max(time.Now().Unix(), 0))).Sign(s.key)
}

// keepReceipt keeps the receipt of a session through which something came, and
// reports whether that need not be done again.
func (s *Seller) keepReceipt(state channel.State, t agent.Tally) bool {
	if t.Session == 0 || t.Empty() {
		return true
	}
	if err := s.receipts.add(s.receipt(state, t)); err != nil {
		s.log.Warn("a receipt was not kept; that will be tried again", "channel", state.ID, "session", t.Session, "err", err)
		return false
	}
	return true
}

// keepReceipts keeps those of sessions that a crash has ended. What cannot be
// stored now is no reason not to sell: it is done when its buyer is back, or at the
// next start.
func (s *Seller) keepReceipts() {
	for _, state := range s.payee.All() {
		var t agent.Tally
		if t.UnmarshalBinary(state.Note) != nil || t.Session == 0 || t.Ended || t.Prepaid > 0 {
			continue // the settle loop reports what cannot be read; a token's is made when it is void
		}
		if t.Ended = s.keepReceipt(state, t); !t.Ended {
			continue
		}
		note, err := t.MarshalBinary()
		if err == nil {
			_, err = s.payee.Note(state.ID, note)
		}
		if err != nil {
			s.log.Warn("store that a session has ended", "channel", state.ID, "err", err)
		}
	}
}

// A former session is the one before this on its channel.
type former struct {
	tally agent.Tally
	kept  bool // its receipt is
}

// formerOf is what a channel's last session came to by the journal, and by what
// its buyer has proven since.
func formerOf(stored, proven agent.Tally) former {
	same := stored.Session == proven.Session && stored.Up == proven.Up && stored.Down == proven.Down
	return former{proven, proven.Session == 0 || stored.Prepaid > 0 || stored.Ended && same}
}

// sayFormer gives the buyer the receipt of the last session through which something
// came: he may never have had it.
func (x *session) sayFormer() error {
	t := x.former.tally
	if !t.Empty() {
		return x.sendReceipt(x.s.receipt(x.state, t))
	}
	if t.Session < 2 {
		return nil
	}
	r, ok, err := x.s.receipts.last(x.state)
	if err != nil {
		x.log.Warn("read the receipts", "err", err)
	}
	if !ok {
		return nil
	}
	return x.sendReceipt(r)
}

// sayReceipt answers the buyer's wish for the receipt of the session, whose flows
// have all ended; before that there is none. A token's channel has its token's.
func (x *session) sayReceipt() error {
	if !x.ended {
		return nil
	}
	x.account.update(x.meter.Reading())
	t := x.account.tally
	if x.prepaid {
		if err := t.UnmarshalBinary(x.state.Note); err != nil {
			return err
		}
	}
	r := agent.NewReceipt(x.state, t, 0)
	if !r.Same(x.receipt) { // who asks again and again costs no signature
		x.receipt = x.s.receipt(x.state, t)
	}
	return x.sendReceipt(x.receipt)
}

func (x *session) sendReceipt(r agent.Receipt) error {
	return x.ctl.Send(agent.CapsuleReceipt, agent.AppendReceipt(make([]byte, 0, agent.ReceiptSize), r))
}
