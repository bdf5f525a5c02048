package buyer

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/depinsim/x402/channel"
)

// A History is a file with what became of a wallet's channels, and when. The
// channels' records hold the newest state and no more; here is one line of JSON
// for each time that the ledger was seen to say something new, and for each run
// that paid. Lines are added and never changed.
type History struct {
	Path string
}

// An Event is what happened in a channel between two looks at it: what happened
// twice between them is one event, and what cancelled out is none.
type Event struct {
	Time    uint64         `json:"time"` // when it was seen, by this computer's clock; Unix seconds
	Network string         `json:"network"`
	Channel channel.ID     `json:"channel"`
	What    What           `json:"what"`
	Amount  channel.Amount `json:"amount"`
	// Before says that nobody wrote down when it happened, but before Time. A
	// deposit is less then by what came back.
	Before bool `json:"before,omitempty"`
	// Until is when a withdrawal that was begun can be finished; Unix seconds.
	Until uint64 `json:"until,omitempty"`

	payer channel.Address
}

// What says what an Event is.
type What string

// What can happen in a channel.
const (
	Deposited  What = "deposited"
	Paid       What = "paid"       // signed for the other side
	Claimed    What = "claimed"    // of what was paid
	Refunded   What = "refunded"   // to the wallet, by the other side
	Withdrawal What = "withdrawal" // was begun, until then
	Withdrawn  What = "withdrawn"  // to the wallet, without the other side
)

// A sight is a line of the file: a channel as it was seen.
type sight struct {
	Time        uint64          `json:"time"`
	Network     string          `json:"network"`
	Payer       channel.Address `json:"payer"`
	Channel     channel.ID      `json:"channel"`
	First       bool            `json:"first,omitempty"` // what was before is not in the file
	Balance     channel.Amount  `json:"balance"`
	Claimed     channel.Amount  `json:"claimed"`
	Signed      channel.Amount  `json:"signed"`
	RefundNonce uint64          `json:"refundNonce"`
	WithdrawAt  uint64          `json:"withdrawAt"`
}

func sightOf(s channel.State) sight {
	return sight{
		Time: uint64(max(time.Now().Unix(), 0)), Network: channel.NetworkName(s.Domain.ChainID), Payer: s.Config.Payer, Channel: s.ID,
		Balance: s.Balance, Claimed: s.Claimed, Signed: s.Max, RefundNonce: s.RefundNonce, WithdrawAt: s.WithdrawAt,
	}
}

// differs says whether the ledger said something else at o.
func (s sight) differs(o sight) bool {
	return s.Balance != o.Balance || s.Claimed != o.Claimed || s.RefundNonce != o.RefundNonce || s.WithdrawAt != o.WithdrawAt
}

// until is what happened from s to o.
func (s sight) until(o sight) (events []Event) {
	add := func(w What, a channel.Amount) {
		e := Event{Time: o.Time, Network: o.Network, Channel: o.Channel, What: w, Amount: a, Before: o.First, payer: o.Payer}
		if w == Withdrawal {
			e.Until = o.WithdrawAt
		}
		events = append(events, e)
	}
	if o.First {
		s = sight{}
	}
	if o.Balance > s.Balance {
		add(Deposited, o.Balance-s.Balance)
	}
	if o.Signed > s.Signed {
		add(Paid, o.Signed-s.Signed)
	}
	if o.Claimed > s.Claimed {
		add(Claimed, o.Claimed-s.Claimed)
	}
	switch {
	case o.Balance >= s.Balance:
	case o.RefundNonce > s.RefundNonce:
		add(Refunded, s.Balance-o.Balance)
	default:
		add(Withdrawn, s.Balance-o.Balance)
	}
	if o.WithdrawAt != 0 && o.WithdrawAt != s.WithdrawAt {
		add(Withdrawal, 0)
	}
	return events
}

// Events returns what happened in payer's channels, oldest first.
func (h History) Events(payer channel.Address) ([]Event, error) {
	events := []Event{}
	last := map[channel.ID]sight{}
	err := h.read(func(s sight) {
		if s.Payer == payer {
			events = append(events, last[s.Channel].until(s)...)
			last[s.Channel] = s
		}
	})
	return events, err
}

// Recall adds to states what the file knows of them: what the ledger said last.
// What was signed since is not in it.
func (h History) Recall(states []channel.State) error {
	last, err := h.last()
	for i, s := range states {
		if l, ok := last[s.ID]; ok {
			s.Balance, s.Claimed, s.RefundNonce, s.WithdrawAt = l.Balance, l.Claimed, l.RefundNonce, l.WithdrawAt
			states[i] = s
		}
	}
	return err
}

func (h History) last() (map[channel.ID]sight, error) {
	last := map[channel.ID]sight{}
	err := h.read(func(s sight) { last[s.Channel] = s })
	return last, err
}

// read calls each for every line. One that a crash has cut is passed over: the
// next says what was in it.
func (h History) read(each func(sight)) error {
	f, err := os.Open(h.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var s sight
		if json.Unmarshal(lines.Bytes(), &s) == nil && s.Channel != (channel.ID{}) {
			each(s)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: %w", h.Path, err)
	}
	return nil
}

// add adds a line. It is not synced: one that is lost is made up for by the next
// look at the channel's record.
func (h History) add(s sight) error {
	line, err := json.Marshal(s)
	if err != nil {
		return err
	}
	f, err := appendTo(h.Path)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}

// appendTo opens a file to which lines are added. One that a crash has cut is
// ended.
func appendTo(path string) (_ *os.File, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	end := []byte{'\n'}
	if info.Size() > 0 {
		if _, err := f.ReadAt(end, info.Size()-1); err != nil {
			return nil, err
		}
	}
	if end[0] != '\n' {
		if _, err := f.Write([]byte{'\n'}); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// Watch returns a store that keeps the history of what is saved in it. The
// history holds up no payment: that it cannot be written is the error of Close.
func (h History) Watch(s channel.Store) channel.Store {
	return &watched{Store: s, history: h}
}

// A watched store is one whose history is kept. The saves of one channel come in
// order, so that its lines do.
type watched struct {
	channel.Store
	history History
	begin   sync.Once

	mu     sync.Mutex
	seen   map[channel.ID]sight // in the file
	newest map[channel.ID]sight // in the store, of those that were saved or loaded
	err    error                // the last of the file
}

// Load also writes down what is not in the file: what came to pass when a crash
// kept it from being written, or before there was one.
func (w *watched) Load() ([]channel.State, error) {
	states, err := w.Store.Load()
	if err != nil {
		return states, err
	}
	w.begin.Do(w.learn)
	for _, s := range states {
		w.note(sightOf(s), true)
	}
	return states, nil
}

// learn reads the file.
func (w *watched) learn() {
	w.newest = map[channel.ID]sight{}
	w.seen, w.err = w.history.last()
}

func (w *watched) Save(s channel.State) error {
	if err := w.Store.Save(s); err != nil {
		return err
	}
	w.begin.Do(w.learn)
	w.note(sightOf(s), false)
	return nil
}

// note writes a sight down if the ledger says something new in it, or if all is
// set and it was paid.
func (w *watched) note(now sight, all bool) {
	w.mu.Lock()
	before, known := w.seen[now.Channel]
	_, loaded := w.newest[now.Channel]
	w.newest[now.Channel] = now
	w.mu.Unlock()
	if !now.differs(before) && (!all || now.Signed == before.Signed) {
		return
	}
	now.First = !known && !loaded && all
	err := w.history.add(now)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.seen[now.Channel] = now
	}
	w.err = err
}

// Close also writes down what the channels paid.
func (w *watched) Close() error {
	w.mu.Lock()
	newest := make([]sight, 0, len(w.newest))
	for _, s := range w.newest {
		newest = append(newest, s)
	}
	w.mu.Unlock()
	for _, s := range newest {
		w.note(s, true)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		w.err = fmt.Errorf("history: %w", w.err)
	}
	return errors.Join(w.Store.Close(), w.err)
}
