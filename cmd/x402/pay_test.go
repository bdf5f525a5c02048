package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/bolt"
	"github.com/depinsim/x402/channel/facilitator/nethttp"
	"github.com/depinsim/x402/channel/resource"
	"github.com/depinsim/x402/channel/x402"
)

// A shop is a web site that is paid by x402.
type shop struct {
	*resource.Server
	site  *httptest.Server
	store channel.Store
}

// scriptShop is `shop open`, which sets $SHOP to the URL of a site that is paid
// over the market's facilitator; `shop close`; or `shop settle USD`, after which
// so much has to be on the shop's account.
func scriptShop(ts *testscript.TestScript, _ bool, args []string) {
	st := onStage(ts)
	switch args[0] {
	case "open":
		s, err := st.market.openShop(ts.Getenv("WORK"))
		ts.Check(err)
		st.shop = s
		ts.Defer(s.close)
		ts.Setenv("SHOP", s.site.URL)
	case "close":
		st.shop.site.Close()
	case "settle":
		want, err := channel.ParseUSD(args[1])
		ts.Check(err)
		ts.Check(st.shop.Settle(context.Background()))
		if got, err := st.market.balance(shopAccount()); err != nil || got != want {
			ts.Fatalf("the shop has %s USD, %v, want %s", got.USD(), err, want.USD())
		}
	}
}

func shopAccount() channel.Address { return channel.Address{0xbb} }

func (m *market) openShop(dir string) (*shop, error) {
	store, err := bolt.Open(filepath.Join(dir, "shop.db"))
	if err != nil {
		return nil, err
	}
	fac, err := nethttp.New(nethttp.Config{URL: m.fac.URL})
	if err != nil {
		return nil, err
	}
	key, err := channel.GenerateKey()
	if err != nil {
		return nil, err
	}
	s := &shop{store: store}
	s.Server, err = resource.New(resource.Config{
		Key: key, PayTo: shopAccount(), Store: store, Facilitator: fac, MinDeposit: 10_000,
		Token: channel.Token{ChainID: 1<<41 + 7, Address: channel.Address{1, 2, 3}, Name: "USDC", Version: "2"},
	})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	for pattern, r := range map[string]resource.Route{
		"/either":       {Price: 1_000},
		"/metered":      {Price: 1_000, Schemes: []string{x402.SchemeBatch}},
		"POST /metered": {Price: 1_000, Schemes: []string{x402.SchemeBatch}},
	} {
		h, err := s.Handler(r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Has("fail") {
				http.Error(w, "not today", http.StatusTeapot)
				return
			}
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s fog %s%s\n", r.Method, r.Header.Get("X-City"), body)
		}))
		if err != nil {
			return nil, err
		}
		mux.Handle(pattern, h)
	}
	mux.HandleFunc("/free", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "air\n") })
	s.site = httptest.NewServer(mux)
	return s, nil
}

func (s *shop) close() {
	s.site.Close()
	s.store.Close()
}
