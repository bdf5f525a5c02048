// Package market is the buyer's client of a relay: it lists offers and asks
// for sessions, over HTTPS. What it returns was checked for shape and size
// only: offers are signed by their agents, and the caller verifies that.
package market

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"github.com/depinsim/x402/tunnel/relay"
)

// Paths of the relay's API.
const (
	OffersPath   = "/v1/offers"
	SessionsPath = "/v1/sessions"
	AddressPath  = "/v1/address"
	RelayPath    = "/v1/relay"   // what the relay asks for passing packets on
	AccountPath  = "/v1/account" // that pays for it, and what is below
)

// Bounds of what is read from a relay.
const (
	maxOffers  = 2 << 20
	maxSession = 4 << 10
	maxAccount = 16 << 10
	maxListed  = 1000 // offers in one answer
)

// Config says which relay is meant and how it is reached.
type Config struct {
	Name relay.Name
	// Dial opens the TCP connection. Default: a net.Dialer's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// A Client speaks to one relay. It is safe for concurrent use.
type Client struct {
	name relay.Name
	http *http.Client
}

// answerTime bounds a whole request.
const answerTime = 10 * time.Second

// New returns a client. Nothing is sent.
func New(c Config) *Client {
	return &Client{c.Name, &http.Client{
		Timeout: answerTime,
		Transport: &http.Transport{
			DialContext:            c.Dial,
			TLSClientConfig:        c.Name.TLS("http/1.1"),
			TLSHandshakeTimeout:    answerTime,
			MaxResponseHeaderBytes: 16 << 10,
			MaxIdleConnsPerHost:    1,
			IdleConnTimeout:        30 * time.Second,
			DisableCompression:     true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Name is the relay's.
func (c *Client) Name() relay.Name { return c.name }

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// A Query narrows the offers. Zero fields do not.
type Query struct {
	Country    string // ISO 3166-1 alpha-2
	Carrier    string // part of the operator's name, or MCC and MNC
	Technology string
	MaxPrice   string // USD per GB, in either direction
	Network    string // CAIP-2
	Agent      string // address
	Evidence   string // that the SIM's claims are worth: "carrier"; "": any
	Limit      int
	Cursor     string // Page.Next of the page before
}

func (q Query) values() url.Values {
	v := url.Values{}
	for key, s := range map[string]string{
		"country": q.Country, "carrier": q.Carrier, "tech": q.Technology, "max-price": q.MaxPrice,
		"network": q.Network, "agent": q.Agent, "cursor": q.Cursor, "evidence": q.Evidence,
	} {
		if s != "" {
			v.Set(key, s)
		}
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return v
}

// A Listing is one offer, and what the relay says of it.
type Listing struct {
	Offer   json.RawMessage `json:"offer"`             // signed by the agent
	Seen    int64           `json:"seen"`              // Unix time of its agent's last sign of life
	Country string          `json:"country,omitempty"` // by the SIM's MCC
	// Evidence is "carrier" if the relay sees the agent in a network of the
	// SIM's carrier, "claimed" if not, with a reason, and "" if it has not looked.
	Evidence string  `json:"evidence,omitempty"`
	Network  Network `json:"network,omitzero"`
	Reason   string  `json:"reason,omitempty"`
}

// A Network is where the relay sees an agent.
type Network struct {
	AS      uint32 `json:"as"` // number of the autonomous system
	Name    string `json:"name,omitempty"`
	Country string `json:"country,omitempty"`
}

// A Page is a part of the offers that a query matches, cheapest first. Next is
// empty on the last.
type Page struct {
	Offers []Listing       `json:"offers"`
	Next   string          `json:"next,omitempty"`
	Toll   json.RawMessage `json:"toll,omitempty"` // what the relay asks; none: it is free
}

// Offers returns the offers that q matches.
func (c *Client) Offers(ctx context.Context, q Query) (Page, error) {
	var p Page
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url(OffersPath)+"?"+q.values().Encode(), nil)
	if err != nil {
		return Page{}, err
	}
	if err := c.do(r, maxOffers, &p); err != nil {
		return Page{}, err
	}
	if len(p.Offers) > maxListed {
		return Page{}, fmt.Errorf("relay %s: %d offers in one answer", c.name.Address(), len(p.Offers))
	}
	return p, nil
}

// Address asks for the address that the relay sees this client at.
func (c *Client) Address(ctx context.Context) (netip.Addr, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url(AddressPath), nil)
	if err != nil {
		return netip.Addr{}, err
	}
	var seen struct {
		Address netip.Addr `json:"address"`
	}
	if err := c.do(r, maxSession, &seen); err != nil {
		return netip.Addr{}, err
	}
	if !seen.Address.IsValid() || seen.Address.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("relay %s: it named no address", c.name.Address())
	}
	return seen.Address.Unmap(), nil
}

// A Request asks for a session with an agent.
type Request struct {
	Agent relay.Address `json:"agent"`
	// Direct lets both sides learn each other's address, to get round the relay.
	Direct bool `json:"direct,omitempty"`
	// Transport is "udp", the default, or "tcp".
	Transport string `json:"transport,omitempty"`
	// Open lets a QUIC client that knows nothing of relays use the port: it
	// belongs to whoever sends the first QUIC packet.
	Open bool `json:"open,omitempty"`

	// Account is the credential of the account that pays, at a relay that charges.
	Account string `json:"-"`
}

// Session asks for a session. The agent is told at the same time.
func (c *Client) Session(ctx context.Context, q Request) (relay.Allotment, error) {
	b, err := json.Marshal(q)
	if err != nil {
		return relay.Allotment{}, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url(SessionsPath), bytes.NewReader(b))
	if err != nil {
		return relay.Allotment{}, err
	}
	r.Header.Set("Content-Type", "application/json")
	authorize(r, q.Account)
	var a relay.Allotment
	if err := c.do(r, maxSession, &a); err != nil {
		return relay.Allotment{}, err
	}
	if err := a.Check(); err != nil {
		return relay.Allotment{}, fmt.Errorf("relay %s: %w", c.name.Address(), err)
	}
	return a, nil
}

func authorize(r *http.Request, credential string) {
	if credential != "" {
		r.Header.Set("Authorization", "Bearer "+credential)
	}
}

// Toll asks what the relay charges. It is empty if the relay is free, as one is
// that does not know the question.
func (c *Client) Toll(ctx context.Context) (json.RawMessage, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url(RelayPath), nil)
	if err != nil {
		return nil, err
	}
	var page struct {
		Toll json.RawMessage `json:"toll"`
	}
	err = c.do(r, maxAccount, &page)
	if refused, ok := errors.AsType[*RefusedError](err); ok && refused.Status == http.StatusNotFound {
		return nil, nil
	}
	return page.Toll, err
}

// Account posts to a path at or below AccountPath, with the credential of an
// account if there is one already, and returns the answer.
func (c *Client) Account(ctx context.Context, path, credential string, body []byte) (json.RawMessage, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url(path), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	authorize(r, credential)
	var answer json.RawMessage
	err = c.do(r, maxAccount, &answer)
	return answer, err
}

// A RefusedError is a relay's answer that is not success. Status is HTTP's: 401
// says that the account is not known, 402 that the relay wants to be paid, 404
// that the agent is not connected there, 429 and 503 that there is no room now.
type RefusedError struct {
	Relay      string
	Status     int
	Code       string // for programs; may be empty
	Text       string
	RetryAfter time.Duration   // 0 if not told
	Toll       json.RawMessage // with 402: what the relay asks
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("relay %s: %s (%d)", e.Relay, e.Text, e.Status)
}

func (c *Client) url(path string) string { return "https://" + c.name.Address() + path }

func (c *Client) do(r *http.Request, most int64, into any) (err error) {
	resp, err := c.http.Do(r)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the URL
		}
		return fmt.Errorf("relay %s: %w", c.name.Address(), err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	switch {
	case err != nil:
		return fmt.Errorf("relay %s: %w", c.name.Address(), err)
	case resp.StatusCode != http.StatusOK:
		return c.refused(resp, body)
	case int64(len(body)) > most:
		return fmt.Errorf("relay %s: answer longer than %d bytes", c.name.Address(), most)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("relay %s: answer: %w", c.name.Address(), err)
	}
	return nil
}

// maxText bounds a relay's explanation.
const maxText = 200

func (c *Client) refused(resp *http.Response, body []byte) error {
	e := &RefusedError{Relay: c.name.Address(), Status: resp.StatusCode, Text: http.StatusText(resp.StatusCode)}
	var said struct {
		Error string          `json:"error"`
		Code  string          `json:"code"`
		Toll  json.RawMessage `json:"toll"`
	}
	if json.Unmarshal(body, &said) == nil && said.Error != "" {
		e.Text = fmt.Sprintf("%q", said.Error[:min(len(said.Error), maxText)]) // a stranger's
		e.Code, e.Toll = said.Code, said.Toll
	}
	if s, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 16); err == nil {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	return e
}
