package gateway

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator/operator"
)

const (
	operatorSocket = "gateway.sock"
	maxLife        = 10 * 365 * 24 * time.Hour
	maxListing     = 64 << 20
)

// ErrNotRunning is returned by an Operator when no gateway answers in its
// directory.
var ErrNotRunning = errors.New("no gateway is running here")

// A Gift is credit that the operator gives to somebody, at the gateway's cost.
// Nobody is paid back what is left of it.
type Gift struct {
	Amount  channel.Amount `json:"amount"`
	Price   channel.Amount `json:"price"` // the most that 1e9 bytes may cost, with the fee
	Life    time.Duration  `json:"life"`
	Allow   []string       `json:"allow"`
	Country string         `json:"country"`
	Carrier string         `json:"carrier"`
	Tech    string         `json:"tech"`
	Memo    string         `json:"memo"`
}

func (o Gift) record() (record, error) {
	c := choice{Country: strings.ToUpper(o.Country), Carrier: o.Carrier, Tech: o.Tech}
	allow, err := parseAllow(o.Allow)
	now := time.Now()
	switch {
	case err != nil:
	case o.Amount == 0 || o.Amount > maxCredit:
		err = fmt.Errorf("amount: %s USD, want more than 0 and at most %s", o.Amount.USD(), maxCredit.USD())
	case o.Price == 0:
		err = errors.New("price: want more than 0 USD per GB")
	case o.Life <= 0 || o.Life > maxLife:
		err = fmt.Errorf("life: %v, want more than 0 and at most %v", o.Life, maxLife)
	case len(o.Memo) > maxMemo:
		err = fmt.Errorf("memo: longer than %d bytes", maxMemo)
	default:
		err = c.check()
	}
	return record{
		Price: o.Price, Paid: o.Amount, Allow: allow, Choice: c, Memo: o.Memo,
		Created: now.Unix(), Expires: now.Add(o.Life).Unix(),
	}, err
}

// serveOperator serves the operator until ctx ends. Whoever can open the socket
// is the operator.
func (g *Gateway) serveOperator(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /tokens", g.serveGift)
	mux.HandleFunc("GET /tokens", g.serveList)
	mux.HandleFunc("DELETE /tokens/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, err := g.named(r.PathValue("id"))
		if err != nil {
			refuse(w, http.StatusNotFound, err.Error())
			return
		}
		g.serveClose(r.Context(), w, id)
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	var eg errgroup.Group
	eg.Go(func() error {
		<-ctx.Done()
		return s.Close()
	})
	eg.Go(func() error {
		if err := s.Serve(g.operator); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("operator's socket: %w", err)
		}
		return nil
	})
	return eg.Wait()
}

func (g *Gateway) serveGift(w http.ResponseWriter, r *http.Request) {
	var o Gift
	if err := json.NewDecoder(io.LimitReader(r.Body, maxRequest)).Decode(&o); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	rec, err := o.record()
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	l, err := g.book.create(rec)
	if err != nil {
		g.log.Error("store a credit", "err", err)
		refuse(w, http.StatusInternalServerError, "the credit could not be stored")
		return
	}
	c := rec.credit()
	c.ID, c.User, c.Password, c.Proxies = nameOf(idOf(l.user)), l.user, l.password, g.fronts.urls(g.cfg.Host, l)
	g.log.Info("credit given", "id", c.ID, "amount", rec.Paid, "memo", rec.Memo)
	answer(w, http.StatusOK, c)
}

func (g *Gateway) serveList(w http.ResponseWriter, _ *http.Request) {
	list := []Credit{}
	err := g.book.all(func(id accountID, r record) {
		c := r.credit()
		c.ID, c.Memo, c.Pending = nameOf(id), r.Memo, r.Pending
		list = append(list, c)
	})
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	answer(w, http.StatusOK, list)
}

// nameOf is what the operator calls an account: he does not know its token.
func nameOf(id accountID) string { return hex.EncodeToString(id[:8]) }

// named finds the account that the operator calls so.
func (g *Gateway) named(name string) (id accountID, err error) {
	found := 0
	err = g.book.all(func(a accountID, _ record) {
		if nameOf(a) == name {
			id = a
			found++
		}
	})
	if err == nil && found != 1 {
		err = fmt.Errorf("there is no credit %.40q: x402-relay token list shows their names", name)
	}
	return id, err
}

// An Operator talks to the gateway that runs in a directory.
type Operator struct {
	dir    string
	client *operator.Client
}

// NewOperator returns the operator of the gateway whose StateDir is dir. Each
// call opens its own connection.
func NewOperator(dir string) *Operator {
	return &Operator{dir, operator.NewClient(filepath.Join(dir, operatorSocket))}
}

// Give makes credit for somebody.
func (o *Operator) Give(ctx context.Context, gift Gift) (c Credit, err error) {
	err = o.call(ctx, http.MethodPost, "/tokens", gift, &c)
	return c, err
}

// List returns all credit.
func (o *Operator) List(ctx context.Context) (all []Credit, err error) {
	err = o.call(ctx, http.MethodGet, "/tokens", nil, &all)
	return all, err
}

// Close ends credit by the name that List shows; what is left is given back to
// who bought it.
func (o *Operator) Close(ctx context.Context, id string) (c Credit, err error) {
	err = o.call(ctx, http.MethodDelete, "/tokens/"+id, nil, &c)
	return c, err
}

func (o *Operator) call(ctx context.Context, method, path string, in, out any) error {
	status, data, err := o.client.Call(ctx, method, path, in, maxListing)
	switch {
	case errors.Is(err, operator.ErrAbsent):
		return fmt.Errorf("%s: %w", o.dir, ErrNotRunning)
	case err != nil:
		return fmt.Errorf("gateway in %s: %w", o.dir, err)
	case status/100 != 2:
		var e struct {
			Error string `json:"error"`
		}
		if json.Unmarshal(data, &e) == nil && e.Error != "" {
			return errors.New(e.Error)
		}
		return fmt.Errorf("gateway in %s: status %d", o.dir, status)
	}
	return json.Unmarshal(data, out)
}
