package buyer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/x402"
)

// authorizationLife is how long a signed deposit can be used, at least: for the
// retries below, and for a clock that is somewhat off.
const authorizationLife = time.Hour

const (
	// topRetry is how long after a failed deposit the next is tried.
	topRetry = 15 * time.Second
	// lastCall is how long a deposit that was sent may take to be answered when
	// the purchase ends.
	lastCall = 10 * time.Second
)

// A fund is a channel that this purchase pays into: its record, what was
// deposited and how much may be. One goroutine at a time uses it.
type fund struct {
	cfg    Config
	log    *slog.Logger
	fac    Facilitator
	domain channel.Domain
	token  channel.Token
	payer  *channel.Payer
	id     channel.ID
	status statusBoard

	mem      memory         // of the channel, between sessions
	begun    bool           // it is stored that a session may have begun; see hello.go
	most     channel.Amount // what may be signed in all: the run's beginning plus the budget
	draft    draft          // the deposit that may have been made
	drawn    uint64         // validBefore of the last draft
	topping  chan error     // the result of a deposit under way; nil: none
	topAfter time.Time      // the next deposit not before

	work sync.WaitGroup // what asks the facilitator meanwhile
}

// A draft is a deposit of which nobody has said what came of it. It is stored
// before it is sent, and sent again until there is an answer: an EIP-3009
// authorization takes effect once, and everything in this one follows from the
// draft. The zero draft is none.
type draft struct {
	amount      channel.Amount
	validBefore uint64 // Unix seconds; no two drafts of a channel have the same
}

// draftSize is 8 bytes for the amount and 6 for the time, since a channel's
// note has room for no more.
const draftSize = 8 + 6

// append adds a draft to a channel's note; none takes no room.
func (d draft) append(b []byte) []byte {
	if d == (draft{}) {
		return b
	}
	b = binary.BigEndian.AppendUint64(b, uint64(d.amount))
	return append(b, binary.BigEndian.AppendUint64(nil, d.validBefore)[2:]...)
}

func (d *draft) parse(b []byte) error {
	*d = draft{}
	if len(b) == 0 {
		return nil
	}
	if len(b) != draftSize {
		return errors.New("channel record: malformed")
	}
	d.amount = channel.Amount(binary.BigEndian.Uint64(b))
	d.validBefore = binary.BigEndian.Uint64(append([]byte{0, 0}, b[8:]...))
	return nil
}

// salt makes the authorization's nonce another one for each draft. It need not
// be secret: only the payer can sign for it.
func (d draft) salt(id channel.ID) channel.Hash {
	return channel.Keccak256([]byte("x402 deposit"), id[:], d.append(nil))
}

// observe reads the channel from the ledger into its record. What a closing
// came to is known then.
func (b *fund) observe(ctx context.Context) (channel.State, error) {
	info, err := b.fac.Channel(ctx, b.cfg.Offer.Payment.Network, b.id)
	if err != nil {
		return channel.State{}, err
	}
	if _, err := b.payer.Thaw(b.id); err != nil {
		return channel.State{}, err
	}
	return b.payer.Observe(b.id, info.Balance, info.TotalClaimed, uint64(info.RefundNonce), info.FinalizeAfter)
}

// A look is what the ledger says of a channel that is used meanwhile.
type look struct {
	state channel.State
	err   error
}

// heard takes over a look. An error ends the purchase.
func (b *Buyer) heard(l look) error {
	b.looked = nil
	if errors.Is(l.err, facilitator.ErrUnavailable) {
		b.log.Warn("the facilitator does not answer; going on with the deposit that is there", "err", l.err)
		return nil
	}
	if l.err != nil {
		return l.err
	}
	return withdrawing(l.state)
}

// withdrawing refuses a channel whose deposit is being taken back.
func withdrawing(s channel.State) error {
	if s.WithdrawAt == 0 {
		return nil
	}
	return fmt.Errorf("a withdrawal from the channel is under way, until %s: finish it with x402 wallet withdraw",
		time.Unix(int64(s.WithdrawAt), 0).Format(time.RFC3339))
}

// ensureDeposit sees to it that the channel holds enough to begin with.
func (b *fund) ensureDeposit(ctx context.Context) error {
	b.status.set(func(s *Status) { s.State = "depositing" })
	if err := b.awaitDeposit(ctx); err != nil {
		return err
	}
	for {
		state, err := b.observe(ctx)
		if err != nil {
			if state, ok := b.payer.Get(b.id); ok && b.missing(state) == 0 && errors.Is(err, facilitator.ErrUnavailable) {
				b.log.Warn("the facilitator does not answer; going on with the deposit that is there", "err", err)
				return nil
			}
			return err
		}
		if err := withdrawing(state); err != nil {
			return err
		}
		amount := b.missing(state)
		if amount == 0 {
			return nil
		}
		again, err := b.draw(amount, b.mem)
		if err != nil {
			return err
		}
		err = b.send(ctx, b.draft, again)
		if rerr := b.resolve(err, b.mem); err == nil {
			err = rerr
		}
		if err != nil || !again { // what was left from before may be another amount
			return err
		}
	}
}

// missing is how much to deposit now: nothing while half a deposit is left,
// and never more than the budget still allows.
func (b *fund) missing(s channel.State) channel.Amount {
	committed := max(s.Max, s.Claimed)
	free := s.Balance - min(s.Balance, committed)
	if free >= b.cfg.Deposit/2 || s.Balance >= b.most {
		return 0
	}
	room := b.most - s.Balance
	amount := min(b.cfg.Deposit, room)
	if least := b.cfg.Offer.Payment.MinDeposit; amount < least && free == 0 {
		amount = least // the budget is below what the agent takes; the rest comes back
	}
	return amount
}

// draw sees to it that there is a draft, and stores it beside m. It reports
// whether the draft was there before and may have been sent.
func (b *fund) draw(amount channel.Amount, m memory) (again bool, err error) {
	if b.draft != (draft{}) {
		return true, nil
	}
	// Drawn by chance, since a run before this one may have drawn in this second.
	life := authorizationLife + rand.N(3*authorizationLife)
	b.drawn = max(b.drawn+1, uint64(time.Now().Add(life).Unix()))
	b.draft = draft{amount, b.drawn}
	return false, b.remember(m)
}

// resolve forgets the draft when err says what came of it: then the ledger's
// balance counts, and another may be drawn.
func (b *fund) resolve(err error, m memory) error {
	if !answered(err) {
		return nil
	}
	b.draft = draft{}
	return b.remember(m)
}

// ErrPoor is that of a wallet that holds less than the deposit.
var ErrPoor = errors.New("add funds first")

// answered says whether what came of a deposit is known. A no of something that
// is no facilitator, by an HTTP status only, or one that does not know itself,
// says nothing about what was sent before.
func answered(err error) bool {
	if refused, ok := errors.AsType[*facilitator.RefusedError](err); ok {
		return !x402.Undecided(refused.Code) && !strings.HasPrefix(refused.Code, "http_")
	}
	return err == nil || errors.Is(err, ErrPoor)
}

// remember stores m and the draft.
func (b *fund) remember(m memory) error {
	b.begun = false // what is stored is m, whatever begin has stored
	note, err := b.note(m)
	if err == nil {
		_, err = b.payer.Note(b.id, note)
	}
	return err
}

// note encodes m and the draft for the channel's record.
func (b *fund) note(m memory) ([]byte, error) {
	m.draft = b.draft
	return m.marshal()
}

// send moves what d says from the wallet's account into the channel, and reads
// the channel. again says that d may have been sent before: a refusal then is
// no error, since what d was for may have been done.
func (b *fund) send(ctx context.Context, d draft, again bool) error {
	if !again {
		if err := b.affords(ctx, d.amount); err != nil {
			return err
		}
	}
	call, cancel := linger(ctx)
	defer cancel()
	var err error
	for wait := time.Second; ; wait *= 2 {
		_, err = b.fac.Deposit(call, b.cfg.Offer.Payment.Network, b.token, b.signDeposit(d))
		if answered(err) || wait > 8*time.Second {
			break
		}
		again = true
		b.log.Warn("the deposit was not answered; asking again", "err", err, "after", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("deposit: %w", err)
		}
	}
	refused, no := errors.AsType[*facilitator.RefusedError](err)
	switch {
	case err == nil:
		b.log.Info("deposited", "amount", d.amount)
	case no && again && answered(err):
		b.log.Info("the deposit that was not answered is done or void", "amount", d.amount, "err", err)
	case no && refused.Code == x402.ErrValidBefore:
		return fmt.Errorf("deposit: the clock of this computer says %s, which has passed for the facilitator: set it: %w",
			time.Now().UTC().Format(time.RFC3339), err)
	default:
		return fmt.Errorf("deposit: %w", err)
	}
	if _, err := b.observe(call); err != nil { // without the new balance it would be topped up again
		return fmt.Errorf("read the channel after the deposit: %w", err)
	}
	return nil
}

// affords checks that the wallet has amount.
func (b *fund) affords(ctx context.Context, amount channel.Amount) error {
	network := b.cfg.Offer.Payment.Network
	account, err := b.fac.Balance(ctx, network, b.cfg.Key.Address())
	if err != nil {
		return err
	}
	if account.Balance < amount {
		return fmt.Errorf("the wallet %s holds %s USD on %s and the channel needs %s: %w",
			b.cfg.Key.Address(), account.Balance.USD(), network, amount.USD(), ErrPoor)
	}
	return nil
}

// linger returns a context that ends some time after ctx, so that a call that
// was sent is answered.
func linger(ctx context.Context) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-late.Done():
		case <-time.After(lastCall):
			cancel()
		}
	})
	return late, func() {
		stop()
		cancel()
	}
}

// signDeposit signs a deposit with the voucher that must come with it.
func (b *fund) signDeposit(d draft) x402.Deposit {
	return x402.DepositRequest{
		Domain: b.domain, Token: b.token, Config: b.cfg.channel(), Amount: d.amount,
		Voucher: b.covered(d.amount), ValidBefore: d.validBefore, Salt: d.salt(b.id),
	}.Sign(b.cfg.Key)
}

// covered signs a voucher that pays nothing new and covers what was claimed, also
// since the ledger was last asked, once more is deposited: it is as much as the
// agent can hold a voucher for.
func (b *fund) covered(more channel.Amount) channel.Voucher {
	state, _ := b.payer.Get(b.id)
	return b.domain.SignVoucher(b.cfg.Key, b.id, max(state.Claimed, min(state.Max, state.Balance+more)))
}

// topUp begins a deposit when less than half of one is left. It goes on when
// the session ends.
func (x *session) topUp(ctx context.Context) {
	b := x.b
	state, _ := b.payer.Get(b.id)
	if owed, err := x.purse.tally.Owed(); err == nil && owed > state.Max {
		state.Max = owed // what is owed is as good as signed
	}
	amount := b.missing(state)
	if b.topping != nil || amount == 0 || time.Now().Before(b.topAfter) {
		return
	}
	again, err := b.draw(amount, x.memory())
	if err != nil {
		b.toppedUp(err)
		return
	}
	d, done := b.draft, make(chan error, 1)
	b.topping = done
	b.work.Go(func() { done <- b.send(ctx, d, again) })
}

// toppedUp takes over a deposit's result, and stores it beside the session's
// numbers.
func (x *session) toppedUp(err error) error {
	b := x.b
	b.topping = nil
	if rerr := b.resolve(err, x.memory()); err == nil {
		err = rerr
	}
	if b.toppedUp(err); err != nil {
		return nil // what is there can still be used
	}
	state, _ := b.payer.Get(b.id)
	x.purse.balance = state.Balance
	return x.ctl.Send(agent.CapsuleTopUp, nil)
}

// toppedUp says that a deposit failed, and when the next is tried.
func (b *fund) toppedUp(err error) {
	if err == nil {
		return
	}
	b.log.Warn("the channel was not topped up", "err", err)
	b.status.set(func(s *Status) { s.Notice = err.Error() })
	b.topAfter = time.Now().Add(topRetry)
}

// awaitDeposit waits, between sessions, for a deposit under way.
func (b *fund) awaitDeposit(ctx context.Context) error {
	if b.topping == nil {
		return nil
	}
	select {
	case err := <-b.topping:
		b.topping = nil
		b.toppedUp(err)
		return b.resolve(err, b.mem)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// endDeposit waits at the end of the purchase for what asks the facilitator.
func (b *fund) endDeposit() {
	b.work.Wait()
	if err := b.awaitDeposit(context.Background()); err != nil {
		b.log.Error("store what came of a deposit", "err", err)
	}
}
