package gateway

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/resource"
	"github.com/depinsim/x402/channel/x402"
)

// A payment is a transfer by which a credit was bought or added to. It is stored
// before the facilitator is asked to make it, so that whoever does not hear what
// came of that can find out:
//
//	open ─┬─ made      the credit is the customer's
//	      ├─ back      the transfer was made, nobody came for the credit: given back
//	      ├─ unpaid    the transfer was not made, and is not any more
//	      └─ unclear   its nonce was used, by another transfer as far as is known
//
// A customer who sends the same request again while it is open, or made, gets
// what he paid for. What is still open when the transfer cannot be made any more
// is given back, and added to where it was to be added.
type payment struct {
	Version int          `json:"version"`
	Account channel.Hash `json:"account"` // its accountID
	// More is what is added to the account; zero: it was opened by this payment.
	More    channel.Amount `json:"more,omitzero"`
	Expires int64          `json:"expires,omitempty"` // of the account, with it
	By      x402.Exact     `json:"by"`
	// Name is the hash of the payment-identifier; zero: there was none.
	Name    channel.Hash `json:"name,omitzero"`
	Created int64        `json:"created"` // Unix seconds
	State   paymentState `json:"state"`
}

type paymentState string

const (
	paymentOpen    paymentState = "open"
	paymentMade    paymentState = "made"
	paymentBack    paymentState = "back"
	paymentUnpaid  paymentState = "unpaid"
	paymentUnclear paymentState = "unclear"
)

const (
	paymentVersion = 1
	// settleGrace is how long after its authorization has ended an open payment is
	// looked into, and settleAt the latest after it was begun.
	settleGrace = time.Minute
	settleAt    = time.Hour
)

func parsePayment(b []byte) (payment, error) {
	var p payment
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("payment: %w", err)
	}
	if p.Version != paymentVersion {
		return p, fmt.Errorf("payment: version %d, this program knows %d", p.Version, paymentVersion)
	}
	switch p.State {
	case paymentOpen, paymentMade, paymentBack, paymentUnpaid, paymentUnclear:
		return p, nil
	}
	return p, fmt.Errorf("payment: state %.20q", p.State)
}

// due says whether it is time to find out what came of an open payment.
func (p payment) due(now time.Time) bool {
	ended := uint64(p.By.Authorization.ValidBefore)
	return now.Unix() >= p.Created+int64(settleAt/time.Second) || uint64(now.Add(-settleGrace).Unix()) >= ended
}

// keyOf names a transfer: it can be made once.
func keyOf(by x402.Exact) channel.Hash {
	a := by.Authorization
	return channel.Keccak256([]byte("x402 credit"), a.From[:], a.Nonce[:])
}

// A payer is who pays for a request, and how.
type payer struct {
	address channel.Address
	by      *x402.Exact  // nil: by a voucher
	name    channel.Hash // of the payment; see payment.Name
}

// payerOf reads who pays for a request, if somebody does.
func payerOf(r *http.Request) (payer, error) {
	var p x402.PaymentPayload
	if err := x402.DecodeHeader(r.Header.Get(x402.HeaderSignature), &p); err != nil {
		return payer{}, err
	}
	name, err := resource.IdentifierOf(p)
	if err != nil {
		return payer{}, err
	}
	address := p.Payload.Payer()
	if address == nil || p.Payload.Refund != nil { // which pays for nothing
		return payer{}, errors.New("no payment")
	}
	from := payer{address: *address, by: p.Payload.Exact}
	if name != "" {
		from.name = sha256.Sum256([]byte(name))
	}
	return from, nil
}

// loginOf is the login of the credit that a transfer opens: another for each, and
// the same whenever it is asked for. Only who has the wallet can tell it.
func (g *Gateway) loginOf(key channel.Hash) login {
	secret := g.cfg.Key.Derive("x402 gateway logins")
	word := func(of string) string {
		mac := hmac.New(sha256.New, secret[:])
		mac.Write([]byte(of))
		mac.Write(key[:])
		return strings.ToLower(base32.StdEncoding.EncodeToString(mac.Sum(nil)[:20])) // 160 bits, no padding
	}
	return login{word("user"), word("password")}
}

// take begins work on a payment, of which there is one at a time: it waits for
// the other.
func (g *Gateway) take(ctx context.Context, key channel.Hash) error {
	for {
		g.handsMu.Lock()
		busy := g.hands[key]
		if busy == nil {
			if g.hands == nil {
				g.hands = map[channel.Hash]chan struct{}{}
			}
			g.hands[key] = make(chan struct{})
			g.handsMu.Unlock()
			return nil
		}
		g.handsMu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (g *Gateway) release(key channel.Hash) {
	g.handsMu.Lock()
	defer g.handsMu.Unlock()
	close(g.hands[key])
	delete(g.hands, key)
}

// makeTransfer has the facilitator make a transfer, or say that it has made it: the
// very same one is never made twice.
func (g *Gateway) makeTransfer(ctx context.Context, by x402.Exact) (x402.SettlementResponse, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refundTime)
	defer cancel()
	want := x402.Requirements{
		Scheme: x402.SchemeExact, Network: g.cfg.Payment.Network, Amount: by.Authorization.Value, Asset: g.cfg.Payment.Asset, PayTo: by.Authorization.To,
		MaxTimeoutSeconds: int(refundTime / time.Second), Extra: x402.Extra{Name: g.token.Name, Version: g.token.Version},
	}
	return g.fac.Settle(ctx, x402.PaymentPayload{Version: x402.Version, Accepted: want, Payload: x402.Payload{Exact: &by}}, want)
}

// again answers a request whose payment was seen before, and reports false for
// any other. account is the one that is to be added to; zero: none.
func (g *Gateway) again(w http.ResponseWriter, r *http.Request, account accountID) bool {
	from, err := payerOf(r)
	if err != nil || from.by == nil {
		return false // the till says what is wrong with it
	}
	key := keyOf(*from.by)
	if _, err := g.book.payment(key); errors.Is(err, errNoPayment) {
		return false
	}
	if err := g.take(r.Context(), key); err != nil {
		return true // nobody waits any more
	}
	defer g.release(key)
	p, err := g.book.payment(key)
	switch {
	case err != nil:
		g.log.Error("read a payment", "err", err)
		refuse(w, http.StatusInternalServerError, "the payment could not be read; send the same request again")
		return true
	case p.By != *from.by, p.State == paymentUnpaid, p.State == paymentUnclear:
		return false // the facilitator says what is wrong with it
	}
	adds := p.More > 0
	if adds != (account != accountID{}) || adds && account != accountID(p.Account) || p.Name != from.name {
		refuse(w, http.StatusConflict, "this payment was made for another request")
		return true
	}
	g.resume(w, r, key, p)
	return true
}

// secret says whether only the payer can show a payment: what is on a public
// chain everybody can repeat, but for the name that he gave it.
func (g *Gateway) secret(p payment) bool {
	return p.Name != channel.Hash{} || g.token.ChainID >= channel.FirstPrivate
}

// resume answers a request again, as far as it was paid. The caller has taken the
// payment.
func (g *Gateway) resume(w http.ResponseWriter, r *http.Request, key channel.Hash, p payment) {
	if p.State == paymentBack {
		refuse(w, http.StatusConflict, "this payment was given back to "+p.By.Authorization.From.String()+": buy new credit")
		return
	}
	settled, err := g.makeTransfer(r.Context(), p.By)
	no, refused := errors.AsType[*facilitator.RefusedError](err)
	switch {
	case p.State == paymentMade: // whatever the facilitator says now
	case refused:
		refuse(w, http.StatusPaymentRequired, "the payment is not made: "+no.Code)
		return
	case err != nil:
		g.log.Warn("look for a payment", "err", err)
		refuse(w, http.StatusServiceUnavailable, "what came of the payment is not known yet: send the same request again, it is paid once")
		return
	}
	if p.More == 0 && !g.secret(p) {
		g.refuseUnnamed(r.Context(), w, key, p)
		return
	}
	rec, err := g.book.honour(key)
	if err != nil {
		g.log.Error("a sale was paid and not stored", "payer", p.By.Authorization.From, "paid", p.By.Authorization.Value, "err", err)
		refuse(w, http.StatusInternalServerError, "the credit could not be stored; send the same request again, it is paid once")
		return
	}
	c := rec.credit()
	if p.More == 0 {
		l := g.loginOf(key)
		if idOf(l.user) != accountID(p.Account) {
			refuse(w, http.StatusConflict, "the gateway has another wallet by now: who runs it can close this credit, which gives it back")
			return
		}
		c.User, c.Password, c.Proxies = l.user, l.password, g.fronts.urls(g.cfg.Host, l)
	}
	if text, err := x402.EncodeHeader(settled); err == nil && settled.Success {
		w.Header().Set(x402.HeaderResponse, text)
	}
	answer(w, http.StatusOK, c)
}

// refuseUnnamed answers one who shows a payment that everybody may have read on a
// chain by now.
func (g *Gateway) refuseUnnamed(ctx context.Context, w http.ResponseWriter, key channel.Hash, p payment) {
	const text = "this payment has no payment-identifier, so that nobody can tell who shows it: "
	if p.State == paymentMade {
		refuse(w, http.StatusConflict, text+"its answer is not given again")
		return
	}
	if err := g.returnPayment(ctx, key); err != nil {
		g.log.Error("give a payment back", "err", err)
		refuse(w, http.StatusInternalServerError, "the payment could not be given back; send the same request again")
		return
	}
	refuse(w, http.StatusConflict, text+"it is given back to "+p.By.Authorization.From.String())
}

// returnPayment gives a payment back that was made, and whose credit nobody knows.
func (g *Gateway) returnPayment(ctx context.Context, key channel.Hash) error {
	id, rec, err := g.book.giveUp(key)
	if err != nil || rec.Refund == nil {
		return err
	}
	if _, err := g.giveBack(ctx, id, rec); err != nil { // it is stored, and will be sent again
		g.log.Warn("refund", "err", err)
	}
	return nil
}

// findPayments finds out what came of payments that nobody has asked for again, and
// forgets those that are long over. It returns whose accounts wait for that.
func (g *Gateway) findPayments(ctx context.Context) (held map[accountID]bool, err error) {
	all, err := g.book.payments(time.Now())
	errs := []error{err, g.book.forgetPayments(all.over)}
	for _, key := range all.due {
		if g.take(ctx, key) != nil {
			break
		}
		errs = append(errs, g.findPayment(ctx, key))
		g.release(key)
	}
	return all.held, errors.Join(errs...)
}

// findPayment is findPayments for one, which the caller has taken.
func (g *Gateway) findPayment(ctx context.Context, key channel.Hash) error {
	p, err := g.book.payment(key)
	if err != nil || p.State != paymentOpen {
		return err
	}
	log := g.log.With("payer", p.By.Authorization.From, "amount", p.By.Authorization.Value, "account", nameOf(accountID(p.Account)))
	_, err = g.makeTransfer(ctx, p.By)
	no, refused := errors.AsType[*facilitator.RefusedError](err)
	switch {
	case refused && no.Code == x402.ErrExactNonceUsed:
		log.Error("a payment's nonce was used, and the facilitator does not say for what: if the gateway was paid, close the credit by x402-relay token, which gives it back")
		return g.book.resolve(key, paymentUnclear)
	case refused:
		log.Info("a payment was not made", "code", no.Code)
		return g.book.resolve(key, paymentUnpaid)
	case err != nil:
		log.Warn("look for a payment", "err", err)
		return nil
	case p.More > 0:
		log.Info("a payment was made whose answer was lost: added to the credit")
		_, err := g.book.honour(key)
		return err
	}
	log.Info("a payment was made whose answer was lost: giving it back")
	return g.returnPayment(ctx, key)
}
