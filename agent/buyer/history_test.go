package buyer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/depinsim/x402/channel"
)

// aChannel is one of payer 1, told apart by its salt.
func aChannel(t *testing.T, salt byte) channel.State {
	t.Helper()
	s, err := channel.NewState(
		channel.Domain{ChainID: 7, Contract: channel.SettlementContract()},
		channel.Config{
			Payer: channel.Address{1}, PayerAuthorizer: channel.Address{1}, Receiver: channel.Address{2}, ReceiverAuthorizer: channel.Address{3},
			Token: channel.Address{4}, WithdrawDelay: 86400, Salt: channel.Hash{salt},
		})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// told are the events as lines: seconds since start, what, amount.
func told(t *testing.T, h History, start uint64) []Event {
	t.Helper()
	events, err := h.Events(channel.Address{1})
	if err != nil {
		t.Fatal(err)
	}
	for i := range events {
		events[i].Time -= start
	}
	return events
}

func sameEvents(t *testing.T, got, want []Event) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Event{}), cmpopts.IgnoreFields(Event{}, "Network", "Channel")); diff != "" {
		t.Error(diff)
	}
}

// TestHistory follows a channel through all that can become of it, over several
// runs and one that was killed.
func TestHistory(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		start := uint64(time.Now().Unix())
		h, kept := History{filepath.Join(dir, "history")}, &shelf{}
		open := func() channel.Store {
			t.Helper()
			w := h.Watch(kept)
			if _, err := w.Load(); err != nil {
				t.Fatal(err)
			}
			return w
		}
		w, s := open(), aChannel(t, 0)
		save := func(w channel.Store, after time.Duration, change func(*channel.State)) {
			t.Helper()
			time.Sleep(after)
			change(&s)
			if err := w.Save(s); err != nil {
				t.Fatal(err)
			}
		}
		save(w, 0, func(*channel.State) {})
		save(w, time.Second, func(s *channel.State) { s.Balance = 1000 })
		for range 5 { // not a line for each voucher
			save(w, time.Second, func(s *channel.State) { s.Max += 10 })
		}
		save(w, time.Second, func(s *channel.State) { s.Balance += 500 })
		save(w, time.Second, func(s *channel.State) { s.Max += 7 })
		time.Sleep(time.Second)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		w = open()
		save(w, time.Second, func(s *channel.State) { s.Max, s.Claimed, s.Balance, s.RefundNonce = 60, 60, 60, 1 })
		save(w, time.Second, func(s *channel.State) { s.Balance = 100 })
		save(w, time.Second, func(s *channel.State) { s.Max = 65 }) // and it is killed
		time.Sleep(time.Second)
		w = open()
		save(w, time.Second, func(s *channel.State) { s.WithdrawAt = start + 86400 })
		save(w, time.Second, func(s *channel.State) { s.WithdrawAt, s.Claimed, s.Balance = 0, 65, 65 })
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		sameEvents(t, told(t, h, start), []Event{
			{Time: 1, What: Deposited, Amount: 1000},
			{Time: 7, What: Deposited, Amount: 500},
			{Time: 7, What: Paid, Amount: 50},
			{Time: 8, What: Paid, Amount: 7},
			{Time: 10, What: Paid, Amount: 3},
			{Time: 10, What: Claimed, Amount: 60},
			{Time: 10, What: Refunded, Amount: 1440},
			{Time: 11, What: Deposited, Amount: 40},
			{Time: 13, What: Paid, Amount: 5},
			{Time: 14, What: Withdrawal, Until: start + 86400},
			{Time: 15, What: Claimed, Amount: 5},
			{Time: 15, What: Withdrawn, Amount: 35},
		})
		if events, err := h.Events(channel.Address{9}); err != nil || len(events) != 0 {
			t.Errorf("another's: %v, %v", events, err)
		}
		old := aChannel(t, 0)
		if err := h.Recall([]channel.State{old}); err != nil {
			t.Fatal(err)
		}
		states := []channel.State{old, aChannel(t, 5)}
		if err := h.Recall(states); err != nil || states[0].Balance != 65 || states[0].Claimed != 65 || states[0].RefundNonce != 1 || states[1].Balance != 0 {
			t.Errorf("%+v, %v", states, err)
		}
	})
}

// TestHistoryBegins: of a channel that is older than the file is told what there
// was, and that nobody knows since when; a new one's deposit has its time.
func TestHistoryBegins(t *testing.T) {
	h, kept := History{filepath.Join(t.TempDir(), "history")}, &shelf{}
	old := aChannel(t, 1)
	old.Balance, old.Claimed, old.Max, old.RefundNonce = 90, 20, 30, 2
	if err := kept.Save(old); err != nil {
		t.Fatal(err)
	}
	w := h.Watch(kept)
	for range 2 { // looked at twice is written once
		if _, err := w.Load(); err != nil {
			t.Fatal(err)
		}
	}
	fresh := aChannel(t, 2)
	for _, balance := range []channel.Amount{0, 40} {
		fresh.Balance = balance
		if err := w.Save(fresh); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	events := told(t, h, 0)
	for i := range events {
		events[i].Time = 0
	}
	sameEvents(t, events, []Event{
		{What: Deposited, Amount: 90, Before: true},
		{What: Paid, Amount: 30, Before: true},
		{What: Claimed, Amount: 20, Before: true},
		{What: Deposited, Amount: 40},
	})
}

// TestHistoryCut: a line that was cut costs no other, and what it would have said
// is said by the next.
func TestHistoryCut(t *testing.T) {
	h, kept := History{filepath.Join(t.TempDir(), "history")}, &shelf{}
	w, s := h.Watch(kept), aChannel(t, 0)
	for _, balance := range []channel.Amount{0, 100, 250} {
		s.Balance = balance
		if err := w.Save(s); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(h.Path)
	if err != nil {
		t.Fatal(err)
	}
	first := strings.Index(string(text), "\n") + 1
	for cut := first; cut < len(text); cut++ {
		if err := os.WriteFile(h.Path, text[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		again := h.Watch(kept)
		if _, err := again.Load(); err != nil {
			t.Fatal(err)
		}
		events := told(t, h, 0)
		if len(events) != 2 || events[0].Amount != 100 || events[1].Amount != 150 {
			t.Fatalf("cut at %d: %+v", cut, events)
		}
	}
}

// TestHistoryCannotBeWritten: money goes on, and it is said at the end.
func TestHistoryCannotBeWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	w, s := History{path}.Watch(&shelf{}), aChannel(t, 0)
	s.Balance = 100
	if err := w.Save(s); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err == nil || !strings.Contains(err.Error(), "history: ") {
		t.Errorf("got %v", err)
	}
}
