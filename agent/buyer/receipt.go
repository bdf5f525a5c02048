package buyer

import (
	"errors"
	"fmt"
	"time"

	"github.com/depinsim/x402/agent"
)

// An agent that gives receipts is asked for the session's when all of it is paid;
// that of a session which broke off comes with the next. None is worth the end of
// a purchase: one that is wrong is said to be, and one that does not come is not
// waited for.

// receiptWait is how long the session's receipt is waited for.
const receiptWait = 3 * time.Second

// askReceipt asks for the session's receipt, once.
func (x *session) askReceipt() error {
	if !x.receipts || x.b.cfg.Receipts == nil || !x.receiptAt.IsZero() {
		return nil
	}
	x.receiptAt = time.Now()
	return x.ctl.Send(agent.CapsuleReceipt, nil)
}

// receipted reports whether the session's receipt has come, or is not waited for
// any more.
func (x *session) receipted() bool {
	return x.receiptAt.IsZero() || x.hasReceipt || time.Since(x.receiptAt) > receiptWait
}

// hearReceipt keeps a receipt of the agent's, with what is wrong in it by our
// count.
func (x *session) hearReceipt(value []byte) {
	b := x.b
	if b.cfg.Receipts == nil {
		return
	}
	x.hasReceipt = x.hasReceipt || !x.receiptAt.IsZero()
	r, err := agent.ParseReceipt(value)
	if err == nil {
		err = r.Verify()
	}
	if err == nil && (r.Domain != b.domain || r.Config != b.cfg.channel()) {
		err = errors.New("receipt: of another channel")
	}
	if err != nil {
		b.log.Warn("the agent's receipt is worth nothing", "err", err)
		return
	}
	if r.Total.Empty() {
		return // of a session that only ended the channel
	}
	note := x.differs(r)
	if note != "" {
		b.log.Warn("the agent's receipt is not what was counted here", "text", note)
		b.status.set(func(s *Status) { s.Notice = "the agent's receipt is not what was counted here: " + note })
	}
	if err := b.cfg.Receipts.Put(r, note); err != nil {
		b.log.Warn("keep a receipt", "err", err)
	}
}

// differs says what in a receipt is not as it was counted here; "" if all is. The
// last session before this through which something came is held against the terms, which were held against our counts.
func (x *session) differs(r agent.Receipt) string {
	t, began, own := r.Total, x.began, x.purse.tally
	owed, _ := t.Owed() // fits: it was parsed
	switch {
	case !x.purse.known:
		return "it came before the terms"
	case t.Session < began.Session && (t.Up != began.BaseUp || t.Down != began.BaseDown || owed > began.Base):
		return fmt.Sprintf("of session %d it says %d bytes up, %d down and %s USD owed, by the terms of this one it was %d, %d and %s",
			t.Session, t.Up, t.Down, owed.USD(), began.BaseUp, began.BaseDown, began.Base.USD())
	case t.Session < began.Session:
		return ""
	case t.Session != own.Session:
		return fmt.Sprintf("it is of session %d, this is session %d", t.Session, own.Session)
	case t.Price != own.Price || t.BaseUp != own.BaseUp || t.BaseDown != own.BaseDown || t.Base < own.Base || t.Base > own.Base.Plus(x.purse.pending):
		return fmt.Sprintf("the price or the beginning of session %d is not that of its terms", t.Session)
	case t.Up != own.Up || t.Down != own.Down:
		return fmt.Sprintf("it says %d bytes up and %d down, counted were %d and %d", t.Up, t.Down, own.Up, own.Down)
	}
	if s, _ := x.b.payer.Get(x.b.id); r.Max < s.Max && s.Max > s.Claimed {
		return fmt.Sprintf("it names a voucher for %s USD, signed was one for %s", r.Max.USD(), s.Max.USD())
	}
	return ""
}
