package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/proxy"
)

// CreditPath is where credit is bought, looked at and given back.
const CreditPath = "/v1/credit"

// Bounds of an order.
const (
	maxRequest = 4 << 10
	minBytes   = 1_000_000
	maxBytes   = 1_000_000_000_000
	maxAllow   = 16
	maxMemo    = 200

	// answerBy is when an answer has to be written at the latest.
	answerBy = 90 * time.Second
)

// An order is the body of POST: how much, and where it is to leave. With a user
// and a password it is added to their credit, at its price.
type order struct {
	Bytes   uint64    `json:"bytes"`
	Country string    `json:"country"`
	Carrier string    `json:"carrier"`
	Tech    string    `json:"tech"`
	Allow   *[]string `json:"allow"`
}

// A Credit is an account as its owner sees it.
type Credit struct {
	User     string   `json:"user,omitempty"`
	Password string   `json:"password,omitempty"` // only when it was bought
	Proxies  []string `json:"proxies,omitempty"`
	// BytesLeft is how much is left at the highest price; by cheaper exits more.
	BytesLeft uint64         `json:"bytesLeft"`
	Up        uint64         `json:"up"`
	Down      uint64         `json:"down"`
	Price     channel.Amount `json:"price"` // the most that 1e9 bytes may cost, in atomic units
	Paid      channel.Amount `json:"paid"`
	Left      channel.Amount `json:"left"`
	Refunded  channel.Amount `json:"refunded"`
	Refunding channel.Amount `json:"refunding,omitzero"` // under way
	Payer     string         `json:"payer,omitempty"`
	Expires   time.Time      `json:"expires"`
	Closed    bool           `json:"closed,omitempty"`
	Allow     []netip.Prefix `json:"allow,omitempty"`
	Country   string         `json:"country,omitempty"`
	Carrier   string         `json:"carrier,omitempty"`
	Tech      string         `json:"tech,omitempty"`
	// For the operator.
	ID      string `json:"id,omitempty"`
	Memo    string `json:"memo,omitempty"`
	Pending bool   `json:"pending,omitempty"` // a sale that was not paid, or in the instant of a crash
}

func (r record) credit() Credit {
	c := Credit{
		BytesLeft: r.bytesLeft(), Up: r.Up, Down: r.Down, Price: r.Price, Paid: r.Paid, Left: r.left(), Refunded: r.Refunded,
		Expires: time.Unix(r.Expires, 0).UTC(), Closed: r.Closed, Allow: r.Allow,
		Country: r.Choice.Country, Carrier: r.Choice.Carrier, Tech: r.Choice.Tech,
	}
	if r.Refund != nil {
		c.Refunding, c.Left = r.Refund.Amount, 0
	}
	if r.Closed {
		c.BytesLeft = 0
	}
	if !r.Payer.IsZero() {
		c.Payer = r.Payer.String()
	}
	return c
}

// ServeHTTP answers at CreditPath.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var o order
	if r.Method == http.MethodPost || r.Method == http.MethodPut {
		if err := o.read(r); err != nil {
			refuse(w, http.StatusBadRequest, err.Error())
			return
		}
	}
	// The facilitator may take longer than other answers.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerBy)) // else it stays as it is
	user, password, shown := r.BasicAuth()
	if r.Method == http.MethodPost && !shown {
		g.sell(w, r, o)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete:
	default:
		w.Header().Set("Allow", "GET, POST, PUT, DELETE")
		refuse(w, http.StatusMethodNotAllowed, "there are GET, POST, PUT and DELETE")
		return
	}
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	id, rec, _, err := accountID{}, record{}, choice{}, errNoAccount
	if shown {
		id, rec, _, err = g.admit(from.Addr().Unmap(), user, password)
	}
	if told, ok := errors.AsType[*proxy.RefusedError](err); ok {
		refuse(w, told.Status, told.Error())
		return
	}
	if err != nil {
		w.Header().Set("WWW-Authenticate", `Basic realm="x402 credit"`)
		refuse(w, http.StatusUnauthorized, "show the user and the password of a credit")
		return
	}
	switch r.Method {
	case http.MethodPost:
		g.topUp(w, r, id, rec, o)
	case http.MethodPut:
		g.setAllow(w, id, o)
	case http.MethodDelete:
		g.serveClose(r.Context(), w, id)
	default:
		answer(w, http.StatusOK, rec.credit())
	}
}

// read reads an order.
func (o *order) read(r *http.Request) error {
	b, err := io.ReadAll(io.LimitReader(r.Body, maxRequest+1))
	switch {
	case err != nil:
		return fmt.Errorf("the body: %w", err)
	case len(b) > maxRequest:
		return fmt.Errorf("the body is longer than %d bytes", maxRequest)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(o); err != nil {
		return fmt.Errorf("the body: want JSON such as {\"bytes\":1000000000,\"country\":\"de\"}: %w", err)
	}
	if d.More() {
		return errors.New("the body: more than one JSON value")
	}
	return nil
}

// choice is where the order is to leave.
func (o order) choice() (choice, error) {
	c := choice{Country: strings.ToUpper(o.Country), Carrier: o.Carrier, Tech: o.Tech}
	return c, c.check()
}

// allowed reads who may use the credit.
func (o order) allowed() ([]netip.Prefix, error) {
	if o.Allow == nil {
		return nil, nil
	}
	return parseAllow(*o.Allow)
}

func parseAllow(texts []string) (list []netip.Prefix, err error) {
	if len(texts) > maxAllow {
		return nil, fmt.Errorf("allow: %d addresses, at most %d", len(texts), maxAllow)
	}
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a, aerr := netip.ParseAddr(text)
			if aerr != nil || a.Zone() != "" {
				return nil, fmt.Errorf("allow: %.60q, want an address such as 192.0.2.1 or 2001:db8::/64", text)
			}
			p = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
		}
		list = append(list, p.Masked())
	}
	return list, nil
}

// checkBytes refuses what is too little to be worth a payment, or too much.
func (o order) checkBytes() error {
	if o.Bytes < minBytes || o.Bytes > maxBytes {
		return fmt.Errorf("bytes: %d, want %d to %d", o.Bytes, minBytes, uint64(maxBytes))
	}
	return nil
}

// setAllow changes who may use a credit.
func (g *Gateway) setAllow(w http.ResponseWriter, id accountID, o order) {
	list, err := o.allowed()
	switch {
	case err != nil:
	case o.Allow == nil:
		err = errors.New("what is to change? There is allow, a list of addresses; an empty one lets everybody")
	case o.Bytes != 0 || o.Country+o.Carrier+o.Tech != "":
		err = errors.New("only allow can be changed; country, carrier and tech go into the user name")
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	r, err := g.book.change(id, func(r *record) error { r.Allow = list; return nil })
	g.answerRecord(w, r, err)
}

// serveClose gives back what is left.
func (g *Gateway) serveClose(ctx context.Context, w http.ResponseWriter, id accountID) {
	r, err := g.close(id)
	if err != nil || r.Refund == nil {
		g.answerRecord(w, r, err)
		return
	}
	back, err := g.giveBack(ctx, id, r)
	if err != nil { // it is stored, and will be sent again
		g.log.Warn("refund", "err", err)
		answer(w, http.StatusAccepted, r.credit())
		return
	}
	answer(w, http.StatusOK, back.credit())
}

func (g *Gateway) answerRecord(w http.ResponseWriter, r record, err error) {
	if err != nil {
		g.log.Error("change an account", "err", err)
		refuse(w, http.StatusInternalServerError, "the change could not be stored; try again")
		return
	}
	answer(w, http.StatusOK, r.credit())
}

func answer(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic("gateway: encode: " + err.Error()) // only our own types come here
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // a client that is gone is no news
}

func refuse(w http.ResponseWriter, status int, text string) {
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "30")
	}
	answer(w, status, struct {
		Error string `json:"error"`
	}{text})
}
