package main

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/x402"
)

// maxLedgers is how many networks of one facilitator are asked about.
const maxLedgers = 64

// accounts asks each facilitator that is known what is in the wallet's account,
// on one network or on all. All are asked at once: some may not answer.
func (c *cupboard) accounts(ctx context.Context, drawers []drawer, network string) ([]shownAccount, error) {
	urls, err := c.facilitators().All()
	if c.extra != "" {
		urls = append(urls, c.extra)
	}
	met := map[string][]string{} // networks of channels, by facilitator
	for _, d := range drawers {
		if d.url != "" {
			urls, met[d.url] = append(urls, d.url), append(met[d.url], d.network())
		}
	}
	var keepers []*keeper
	errs := []error{err}
	for _, url := range unique(urls) {
		fac, err := c.client(url)
		errs = append(errs, err)
		if err == nil {
			keepers = append(keepers, &keeper{url: url, fac: fac, wallet: c.wallet.Address(), met: met[url], network: network})
		}
	}
	var asked sync.WaitGroup
	for _, k := range keepers {
		asked.Go(func() { k.ask(ctx) })
	}
	asked.Wait()
	accounts := []shownAccount{}
	for _, k := range keepers {
		if errors.Is(k.err, facilitator.ErrUnavailable) {
			c.down[k.url] = k.err
		}
		accounts = append(accounts, k.accounts...)
	}
	return counted(accounts), errors.Join(errs...)
}

// counted marks what is to be counted once: a network has one ledger, whoever is
// asked about it, and the first who answers is believed.
func counted(accounts []shownAccount) []shownAccount {
	first := map[string]int{}
	for i, a := range accounts {
		if _, answered := first[a.Network]; !answered && a.Balance != nil {
			first[a.Network] = i
		}
	}
	for i, a := range accounts {
		at, answered := first[a.Network]
		accounts[i].Same = answered && i != at
	}
	return accounts
}

// A keeper is a facilitator that is asked for a wallet's accounts.
type keeper struct {
	url     string
	fac     *facilitator.Client
	wallet  channel.Address
	met     []string // networks on which it is known to keep something
	network string   // the only one that is asked for; empty: all

	accounts []shownAccount
	err      error // the last
}

func (k *keeper) ask(ctx context.Context) {
	s, err := k.fac.Supported(ctx)
	k.err = err
	names := s.Networks()
	networks := unique(append(slices.Clone(k.met), names[:min(len(names), maxLedgers)]...))
	networks = slices.DeleteFunc(networks, func(n string) bool {
		_, err := channel.ParseNetwork(n)
		return err != nil || k.network != "" && n != k.network
	})
	if err != nil && len(networks) == 0 {
		k.add("", nil)
	}
	for _, n := range networks {
		if errors.Is(k.err, facilitator.ErrUnavailable) { // waiting once is enough
			k.add(n, nil)
			continue
		}
		var info x402.AccountInfo
		if info, k.err = k.fac.Balance(ctx, n, k.wallet); k.err == nil {
			k.add(n, &info)
		} else {
			k.add(n, nil)
		}
	}
}

// add adds an account; of one that is nil nothing is known, and k.err says why.
func (k *keeper) add(network string, info *x402.AccountInfo) {
	a := shownAccount{Network: network, Facilitator: k.url}
	if info == nil {
		a.err, a.Error = k.err, k.err.Error()
	} else {
		a.Balance, a.Earned, a.Unsettled = &info.Balance, info.Claimed, info.Unsettled
	}
	k.accounts = append(k.accounts, a)
}

// unique is a without what was in it before.
func unique(a []string) []string { return union(nil, a) }
