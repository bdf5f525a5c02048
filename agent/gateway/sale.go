package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/resource"
	"github.com/depinsim/x402/channel/x402"
	"github.com/depinsim/x402/tunnel/proxy"
)

// fundsAge is how old what is known of the wallet may be.
const fundsAge = 10 * time.Second

// errFunds says that the wallet could not pay an agent.
var errFunds = errors.New("the gateway has no money to pay agents with at present")

// funded checks that the wallet can open a channel.
func (g *Gateway) funded(ctx context.Context) error {
	g.fundsMu.Lock()
	defer g.fundsMu.Unlock()
	if time.Since(g.counted) > fundsAge {
		a, err := g.fac.Balance(ctx, g.cfg.Payment.Network, g.cfg.Key.Address())
		if err != nil {
			return fmt.Errorf("the gateway cannot see what it has: %w", err)
		}
		g.funds, g.counted = a.Balance, time.Now()
	}
	if g.funds < max(g.cfg.Deposit, leastFunds) {
		return errFunds
	}
	return nil
}

// leastFunds are what a channel is opened with by default.
const leastFunds channel.Amount = 250_000

// A sale is an order that can be filled.
type sale struct {
	bytes  uint64
	price  channel.Amount // for 1e9 bytes
	amount channel.Amount
}

// quote says what an order costs.
func (g *Gateway) quote(ctx context.Context, bytes uint64, c choice) (sale, error) {
	found, err := g.exits.fitting(ctx, c, 0)
	if err != nil {
		return sale{}, err
	}
	price := max(g.exits.price(found[0]).Max(), 1) // the cheapest first; 0 would be no ceiling
	amount, err := priceOf(bytes, price)
	return sale{bytes, price, amount}, err
}

// collect has a request paid, and then served; see resource.Route.
func (g *Gateway) collect(amount channel.Amount, serve http.HandlerFunc) (http.Handler, error) {
	return g.till.Handler(resource.Route{
		Price: amount, MIMEType: "application/json",
		Description: "Credit for an HTTP or SOCKS5 proxy that leaves by mobile networks, in bytes",
		Discovery: &resource.Discovery{
			BodyType: "json", Body: json.RawMessage(`{"bytes":1000000000,"country":"de","carrier":"telekom","tech":"5g","allow":["192.0.2.1"]}`),
			OutputType: "json",
			Output: json.RawMessage(`{"user":"TOKEN","password":"PASSWORD","proxies":["https://TOKEN:PASSWORD@HOST:PORT"],"bytesLeft":1000000000,` +
				`"price":"4400000","paid":"4400000","expires":"2026-12-31T00:00:00Z"}`),
		},
	}, serve)
}

// sell sells a new credit.
func (g *Gateway) sell(w http.ResponseWriter, r *http.Request, o order) {
	if g.again(w, r, accountID{}) {
		return
	}
	c, err := o.choice()
	if err == nil {
		err = o.checkBytes()
	}
	allow, aerr := o.allowed()
	if err = errors.Join(err, aerr); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	s, err := g.quote(r.Context(), o.Bytes, c)
	if err == nil {
		err = g.funded(r.Context())
	}
	if err != nil {
		g.refuseSale(w, err)
		return
	}
	now := time.Now()
	rec := record{
		Price: s.price, Paid: s.amount, Allow: allow, Choice: c,
		Created: now.Unix(), Expires: now.Add(g.cfg.Life).Unix(),
	}
	g.serveSale(w, r, s.amount, func(w http.ResponseWriter, from payer) {
		rec.Payer = from.address
		g.fill(w, rec, from)
	})
}

// fill opens a credit that is about to be paid: it is stored as pending, the
// payment is booked with the answer's head, and then it is one.
func (g *Gateway) fill(w http.ResponseWriter, rec record, from payer) {
	rec.Pending = true
	var l login
	var err error
	var done func() error
	if from.by == nil {
		l, err = g.book.create(rec)
		done = func() error {
			_, err := g.book.change(idOf(l.user), func(r *record) error { r.Pending = false; return nil })
			g.book.counts.sell(false, rec.Paid)
			return err
		}
	} else {
		l = g.loginOf(keyOf(*from.by))
		done, err = g.begin(from, payment{Account: channel.Hash(idOf(l.user))}, l, &rec)
	}
	if err != nil {
		g.refuseStore(w, err)
		return
	}
	c := rec.credit()
	c.User, c.Password, c.Proxies = l.user, l.password, g.fronts.urls(g.cfg.Host, l)
	g.confirm(w, c, done)
}

// begin stores a transfer that is about to be made, with the credit that it opens
// if it does, and returns what to do when it was.
func (g *Gateway) begin(from payer, p payment, l login, rec *record) (done func() error, err error) {
	p.By, p.Name, p.Created = *from.by, from.name, time.Now().Unix()
	key := keyOf(*from.by)
	if err := g.book.begin(key, p, l, rec); err != nil {
		return nil, err
	}
	return func() error {
		_, err := g.book.honour(key)
		return err
	}, nil
}

func (g *Gateway) refuseStore(w http.ResponseWriter, err error) {
	if errors.Is(err, errSold) { // a moment ago
		refuse(w, http.StatusServiceUnavailable, errSold.Error()+": send the same request again")
		return
	}
	g.log.Error("store a credit", "err", err)
	refuse(w, http.StatusInternalServerError, "the credit could not be stored; nothing is charged")
}

// confirm books the payment, does what was paid for, and answers.
func (g *Gateway) confirm(w http.ResponseWriter, c Credit, done func() error) {
	b, err := json.Marshal(c)
	if err != nil {
		panic("gateway: encode: " + err.Error()) // only our own types come here
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	if _, err := w.Write(nil); err != nil {
		g.log.Warn("a sale was not paid", "err", err)
		return
	}
	if err := done(); err != nil {
		g.log.Error("a sale was paid and not stored", "payer", c.Payer, "paid", c.Paid, "err", err)
	}
	_, _ = w.Write(append(b, '\n')) // a client that is gone is no news
}

// topUp sells more of a credit, at its price.
func (g *Gateway) topUp(w http.ResponseWriter, r *http.Request, id accountID, rec record, o order) {
	if g.again(w, r, id) {
		return
	}
	amount, err := priceOf(o.Bytes, rec.Price)
	total, terr := rec.Paid.Add(amount)
	switch err = errors.Join(err, terr, o.checkBytes()); {
	case err != nil:
	case o.Country+o.Carrier+o.Tech != "" || o.Allow != nil:
		err = errors.New("more of a credit has its price: only bytes can be said; country, carrier and tech go into the user name")
	case total > maxCredit:
		err = fmt.Errorf("a credit holds at most %s USD in all", maxCredit.USD())
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if rec.Closed || rec.expired(time.Now()) {
		refuse(w, http.StatusForbidden, errEnded.Error()+": buy new credit")
		return
	}
	if rec.Payer.IsZero() {
		refuse(w, http.StatusConflict, "this credit was given by the operator: buy your own")
		return
	}
	if err := g.funded(r.Context()); err != nil {
		g.refuseSale(w, err)
		return
	}
	g.serveSale(w, r, amount, func(w http.ResponseWriter, from payer) {
		if from.address != rec.Payer {
			refuse(w, http.StatusConflict, "what is left of a credit is given back to who bought it: only "+rec.Payer.String()+" can add to it")
			return
		}
		rec.Paid = total
		rec.Expires = max(rec.Expires, time.Now().Add(g.cfg.Life).Unix())
		g.add(w, id, rec, payment{More: amount, Account: channel.Hash(id), Expires: rec.Expires}, from)
	})
}

// add adds to a credit, which is rec with it, what is about to be paid.
func (g *Gateway) add(w http.ResponseWriter, id accountID, rec record, p payment, from payer) {
	done := func() error {
		_, err := g.book.change(id, func(r *record) error { return r.add(p) })
		g.book.counts.sell(true, p.More)
		return err
	}
	if from.by != nil {
		var err error
		if done, err = g.begin(from, p, login{}, nil); err != nil {
			g.refuseStore(w, err)
			return
		}
	}
	g.confirm(w, rec.credit(), done)
}

// add adds what a payment is for.
func (r *record) add(p payment) (err error) {
	if r.Paid, err = r.Paid.Add(p.More); err != nil || r.Paid > maxCredit {
		return channel.ErrOverflow
	}
	r.Expires = max(r.Expires, p.Expires)
	return nil
}

// serveSale has a sale paid.
func (g *Gateway) serveSale(w http.ResponseWriter, r *http.Request, amount channel.Amount, serve func(http.ResponseWriter, payer)) {
	if amount > maxCredit {
		refuse(w, http.StatusBadRequest, fmt.Sprintf("that costs %s USD, and a credit holds at most %s", amount.USD(), maxCredit.USD()))
		return
	}
	h, err := g.collect(amount, func(w http.ResponseWriter, r *http.Request) {
		from, err := payerOf(r)
		if err != nil {
			refuse(w, http.StatusBadRequest, "the payment names no payer")
			return
		}
		if from.by != nil {
			key := keyOf(*from.by)
			if err := g.take(r.Context(), key); err != nil {
				refuse(w, http.StatusServiceUnavailable, "nobody waits any more")
				return
			}
			defer g.release(key)
		}
		serve(w, from)
	})
	if err != nil {
		g.log.Error("sell", "err", err)
		refuse(w, http.StatusInternalServerError, "the gateway cannot sell")
		return
	}
	h.ServeHTTP(w, r)
}

func (g *Gateway) refuseSale(w http.ResponseWriter, err error) {
	g.book.counts.refuse(reasonOf(err))
	if told, ok := errors.AsType[*proxy.RefusedError](err); ok {
		refuse(w, told.Status, told.Error())
		return
	}
	g.log.Warn("sell", "err", err)
	if errors.Is(err, errFunds) {
		refuse(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	refuse(w, http.StatusServiceUnavailable, "the gateway cannot sell at present")
}

// listed is what the gateway's entry in a list of resources is an example of.
const listed = 1_000_000_000

// resourceItem is an entry of GET /discovery/resources (x402 version 2,
// discovery).
type resourceItem struct {
	URL         string                     `json:"resource"`
	Type        string                     `json:"type"`
	Version     int                        `json:"x402Version"`
	Accepts     []x402.Requirements        `json:"accepts"`
	LastUpdated time.Time                  `json:"lastUpdated"`
	Metadata    resourceMetadata           `json:"metadata"`
	Extensions  map[string]json.RawMessage `json:"extensions,omitempty"`
}

type resourceMetadata struct {
	Description string         `json:"description"`
	MIMEType    string         `json:"mimeType"`
	Bytes       uint64         `json:"bytes"` // of the example: what accepts asks for
	Price       channel.Amount `json:"price"` // of the cheapest exit now, for 1e9 bytes, in atomic units
	FeePercent  uint64         `json:"feePercent"`
	Countries   []string       `json:"countries,omitempty"`
	Facilitator string         `json:"facilitator"`
}

// Resources describe what is sold, with what 1 GB costs now. It is empty while
// there is nothing to sell.
func (g *Gateway) Resources(ctx context.Context, at string) []json.RawMessage {
	s, err := g.quote(ctx, listed, choice{})
	if err != nil {
		return nil
	}
	h, err := g.collect(s.amount, nil)
	if err != nil {
		return nil
	}
	asked := answerHead{header: http.Header{}}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, at+CreditPath, http.NoBody)
	if err != nil {
		return nil
	}
	h.ServeHTTP(asked, r)
	var p x402.PaymentRequired
	if err := x402.DecodeHeader(asked.header.Get(x402.HeaderRequired), &p); err != nil {
		return nil
	}
	item := resourceItem{
		URL: at + CreditPath, Type: "http", Version: x402.Version, Accepts: p.Accepts, LastUpdated: time.Now().UTC().Truncate(time.Second),
		Extensions: p.Extensions,
		Metadata: resourceMetadata{
			Description: p.Resource.Description, MIMEType: p.Resource.MIMEType, Bytes: listed, Price: s.price,
			FeePercent: g.cfg.FeePercent, Countries: g.exits.countries(), Facilitator: g.cfg.Payment.Facilitator,
		},
	}
	b, err := json.Marshal(item)
	if err != nil {
		return nil
	}
	return []json.RawMessage{b}
}

// An answerHead keeps the head of an answer.
type answerHead struct{ header http.Header }

func (a answerHead) Header() http.Header         { return a.header }
func (a answerHead) Write(b []byte) (int, error) { return len(b), nil }
func (a answerHead) WriteHeader(int)             {}
