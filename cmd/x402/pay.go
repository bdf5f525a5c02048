package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/spend"
	"github.com/depinsim/x402/channel/x402"
)

// maxQuoted bounds a body that is printed inside of JSON.
const maxQuoted = 1 << 20

// payFlags are those of x402 pay.
type payFlags struct {
	places
	url         *url.URL
	maxPrice    channel.Amount
	deposit     channel.Amount
	method      string
	data        string
	header      http.Header
	output      string
	facilitator string
	scheme      string
	keep        bool
	asJSON      bool
	timeout     time.Duration
}

// parsePay reads the command line; flags may stand before and after the URL.
func parsePay(args []string, stdout io.Writer) (f payFlags, done bool, err error) {
	f.header = http.Header{}
	fs := newFlags("pay")
	f.walletFlags(fs)
	f.stateFlag(fs)
	maxPrice := fs.String("max-price", "", "")
	deposit := fs.String("deposit", "", "")
	fs.StringVar(&f.method, "method", "", "")
	fs.StringVar(&f.data, "data", "", "")
	fs.StringVar(&f.output, "output", "", "")
	fs.StringVar(&f.facilitator, "facilitator", "", "")
	fs.StringVar(&f.scheme, "scheme", "", "")
	fs.BoolVar(&f.keep, "keep", false, "")
	fs.BoolVar(&f.asJSON, "json", false, "")
	fs.DurationVar(&f.timeout, "timeout", time.Minute, "")
	fs.Func("header", "", f.addHeader)
	var words []string
	for rest := args; ; rest = fs.Args()[1:] {
		if err := fs.Parse(rest); errors.Is(err, flag.ErrHelp) {
			_, err := io.WriteString(stdout, payHelp)
			return f, true, err
		} else if err != nil {
			return f, true, withHint(flagError(err), "x402 pay --help explains the flags")
		}
		if fs.NArg() == 0 {
			break
		}
		words = append(words, fs.Arg(0))
	}
	return f, false, f.check(words, *maxPrice, *deposit)
}

func (f *payFlags) addHeader(line string) error {
	name, value, ok := strings.Cut(line, ":")
	if !ok || strings.TrimSpace(name) == "" {
		return errors.New("want NAME: VALUE")
	}
	f.header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	return nil
}

func (f *payFlags) check(words []string, maxPrice, deposit string) (err error) {
	if len(words) != 1 {
		return usage("want one URL to fetch, have %d", len(words))
	}
	if f.url, err = url.Parse(words[0]); err != nil || f.url.Scheme != "http" && f.url.Scheme != "https" || f.url.Host == "" {
		return usage("%.100q: want a URL that begins with http:// or https://", words[0])
	}
	if maxPrice == "" {
		return withHint(usage("--max-price: missing"), "it is the most that this request may cost, in USD")
	}
	if f.maxPrice, err = usd("max-price", maxPrice); err != nil {
		return err
	}
	if f.maxPrice == 0 {
		return usage("--max-price: want more than 0")
	}
	if deposit != "" {
		if f.deposit, err = usd("deposit", deposit); err != nil {
			return err
		}
	}
	if f.scheme != "" && f.scheme != x402.SchemeExact && f.scheme != x402.SchemeBatch {
		return usage("--scheme: %.40q, want %s or %s", f.scheme, x402.SchemeExact, x402.SchemeBatch)
	}
	if f.timeout <= 0 {
		return usage("--timeout: %v, want more than 0", f.timeout)
	}
	if f.method == "" {
		f.method = http.MethodGet
		if f.data != "" {
			f.method = http.MethodPost
		}
	}
	return nil
}

// paid is what pay prints with --json.
type paid struct {
	URL      string          `json:"url"`
	Status   int             `json:"status"`
	Bytes    int64           `json:"bytes"`
	Body     *string         `json:"body,omitempty"` // without --output
	Paid     channel.Amount  `json:"paid"`
	Refunded channel.Amount  `json:"refunded"`
	Payments []spend.Payment `json:"payments"`
}

func pay(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	return prefix("pay", payFor(ctx, args, stdout, stderr))
}

// payFor is pay before its errors have its name.
func payFor(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	f, done, err := parsePay(args, stdout)
	if done || err != nil {
		return err
	}
	c, err := f.openCupboard(f.facilitator)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	assets, keepers, err := c.assets(ctx)
	if err != nil {
		return err
	}
	if err := c.unlock(); err != nil {
		return err
	}
	out := paid{URL: f.url.String(), Payments: []spend.Payment{}}
	t, err := spend.New(spend.Config{
		Key: c.key, Store: c.store, Assets: assets, MaxPrice: f.maxPrice, Budget: f.maxPrice, MaxDeposit: f.deposit, Schemes: f.schemes(),
		OnPayment: func(p spend.Payment) {
			out.Payments = append(out.Payments, p)
			if p.Channel != nil {
				if err := c.resources().Save(*p.Channel, buyer.Resource{Method: f.method, URL: f.url.String(), Facilitator: keepers[p.Network]}); err != nil {
					warn(stderr, err) // wallet withdraw --facilitator gets it back all the same
				}
			}
		},
	})
	if err != nil {
		return err
	}
	err = f.fetch(ctx, t, &out, stdout)
	out.Paid = t.Spent()
	if !f.keep {
		back, rerr := t.RefundAll(ctx)
		out.Refunded = back
		if rerr != nil {
			err = errors.Join(err, withHint(rerr, "x402 wallet refund tries again; x402 wallet withdraw needs no server"))
		}
	}
	return errors.Join(err, f.report(out, stdout, stderr))
}

// schemes are how may be paid, best first: one request is cheapest by a transfer,
// several by one deposit.
func (f payFlags) schemes() []string {
	switch {
	case f.scheme != "":
		return []string{f.scheme}
	case f.keep:
		return []string{x402.SchemeBatch, x402.SchemeExact}
	}
	return []string{x402.SchemeExact, x402.SchemeBatch}
}

// assets are what the wallet has accounts in, and who keeps them, by network.
func (c *cupboard) assets(ctx context.Context) ([]spend.Asset, map[string]string, error) {
	urls, err := c.facilitators().All()
	if err != nil {
		return nil, nil, err
	}
	if c.extra != "" && !slices.Contains(urls, c.extra) {
		urls = append(urls, c.extra)
	}
	if len(urls) == 0 {
		return nil, nil, withHint(errors.New("the wallet has no account"), "x402 wallet fund --facilitator URL makes one known")
	}
	var assets []spend.Asset
	var errs []error
	keepers := map[string]string{}
	for _, u := range urls {
		fac, err := c.client(u)
		var s x402.Supported
		if err == nil {
			s, err = fac.Supported(ctx)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, network := range s.Networks() {
			token, err := s.Token(network)
			if err != nil || keepers[network] != "" {
				continue // of a ledger that names no asset, or is known already
			}
			keepers[network] = u
			assets = append(assets, spend.Asset{Token: token, Ledger: fac})
		}
	}
	if len(assets) == 0 {
		return nil, nil, errors.Join(errs...)
	}
	return assets, keepers, nil
}

// fetch sends the request and writes its answer's body.
func (f payFlags) fetch(ctx context.Context, t *spend.Transport, out *paid, stdout io.Writer) (err error) {
	req, err := http.NewRequestWithContext(ctx, f.method, f.url.String(), strings.NewReader(f.data))
	if err != nil {
		return usage("--method: %w", err)
	}
	req.Header = f.header
	resp, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() // it was read as far as it matters
	out.Status = resp.StatusCode
	to, quoted := stdout, new(bytes.Buffer)
	body := io.Reader(resp.Body)
	switch {
	case f.output != "":
		file, err := os.Create(f.output)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		to = file
	case f.asJSON:
		to, body = quoted, io.LimitReader(resp.Body, maxQuoted+1)
	}
	if out.Bytes, err = io.Copy(to, body); err != nil {
		return err
	}
	if f.asJSON && f.output == "" {
		if out.Bytes > maxQuoted || !utf8.Valid(quoted.Bytes()) {
			return errors.New("the answer is long or no text: name a file for it with --output")
		}
		text := quoted.String()
		out.Body = &text
	}
	switch {
	case resp.StatusCode == http.StatusPaymentRequired:
		return fmt.Errorf("the server did not take the payment: %s", whyUnpaid(resp))
	case resp.StatusCode >= 400:
		return fmt.Errorf("the server answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	return nil
}

// whyUnpaid is what a 402 says.
func whyUnpaid(resp *http.Response) string {
	var settled x402.SettlementResponse
	if x402.DecodeHeader(resp.Header.Get(x402.HeaderResponse), &settled) == nil && settled.ErrorReason != "" {
		return settled.ErrorReason
	}
	if r, err := x402.DecodeRequired(resp.Header.Get(x402.HeaderRequired)); err == nil && r.Error != "" {
		return r.Error
	}
	return "it does not say why"
}

// report says what was paid: to people on the standard error, so that the body
// stays alone.
func (f payFlags) report(out paid, stdout, stderr io.Writer) error {
	if f.asJSON {
		b, err := json.Marshal(out)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(stdout, "%s\n", b)
		return err
	}
	if len(out.Payments) == 0 && out.Paid == 0 {
		_, err := fmt.Fprintln(stderr, "paid nothing")
		return err
	}
	var text strings.Builder
	text.WriteString(fmt.Sprintf("paid %s USD", out.Paid.USD()))
	for _, p := range out.Payments {
		if p.Channel == nil {
			text.WriteString(" by a transfer")
			continue
		}
		text.WriteString(fmt.Sprintf(" from channel %.10s", p.Channel))
		if p.Deposited > 0 {
			text.WriteString(fmt.Sprintf(", deposited %s", p.Deposited.USD()))
		}
	}
	if out.Refunded > 0 {
		text.WriteString(fmt.Sprintf(", refunded %s", out.Refunded.USD()))
	}
	_, err := fmt.Fprintln(stderr, text.String())
	return err
}

// refundResource has the server of a channel that was used by HTTP give back
// what is left.
func (r refunder) refundResource(ctx context.Context, d drawer) error {
	if err := r.unlock(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, closeTime)
	defer cancel()
	fac, err := r.client(d.url)
	if err != nil {
		return err
	}
	s, err := fac.Supported(ctx)
	if err != nil {
		return err
	}
	token, err := s.Token(channel.NetworkName(d.State.Domain.ChainID))
	if err != nil {
		return err
	}
	t, err := spend.New(spend.Config{Key: r.key, Store: r.store, MaxPrice: 1, Budget: 1, Assets: []spend.Asset{{Token: token, Ledger: fac}}})
	if err != nil {
		return err
	}
	back, err := t.Refund(ctx, d.resource.Method, d.resource.URL)
	if err != nil {
		return withHint(err, "try again later, or take the rest back without the server after %s: x402 wallet withdraw --channel %s",
			duration(d.State.Config.WithdrawDelay), d.short())
	}
	_, err = fmt.Fprintf(r.stdout, "channel %s: refunded %s USD\n", d.short(), back.USD())
	return err
}
