// Package facilitator is the client of an x402 facilitator: the service that
// verifies payments and settles channels on a network. It needs neither gas nor
// a node nor a contract's ABI, so it fits a router.
//
// A call fails in one of two ways. [RefusedError] means that the facilitator
// understood the request and said no; asking again is pointless until something
// changes. [ErrUnavailable] means that there is no answer to rely on: it is
// down, slow, broken or talks nonsense; the same request may be sent again, for
// a facilitator of ours never applies one twice.
package facilitator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync/atomic"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// ErrUnavailable is wrapped by every error that says nothing about the payment.
var ErrUnavailable = errors.New("facilitator unavailable")

// A RefusedError is the facilitator's no.
type RefusedError struct {
	Code    string // one of x402's codes, or an HTTP status
	Message string // for people; may be empty
}

func (e *RefusedError) Error() string {
	if e.Message == "" {
		return "refused: " + e.Code
	}
	return "refused: " + e.Message + " (" + e.Code + ")"
}

// Pending reports whether err says that a claim or a settlement is kept by the
// facilitator and sent to the chain when it is worth its gas, or when the payer
// withdraws. There is nothing more to do about it.
func Pending(err error) bool {
	refused, ok := errors.AsType[*RefusedError](err)
	return ok && refused.Code == x402.ErrPending
}

// An Answer is what a facilitator answered, of whatever status.
type Answer struct {
	Status   int
	Location string // where it says that it has moved to
	Body     []byte // up to x402.MaxBody+1 bytes of it: more is too much
}

// An Exchanger sends a request by HTTP and returns the answer. A body is JSON;
// nil is none.
type Exchanger interface {
	Exchange(ctx context.Context, method, url string, body []byte) (Answer, error)
}

// A Client talks to one facilitator. It is safe for concurrent use, and tries
// every call once.
type Client struct {
	base  string
	via   Exchanger
	plain atomic.Bool // has none of our own calls; see Look
}

// NewDirect returns a client for routers: it makes a connection for each call,
// by way of no proxy, and follows no redirects, which are told as errors. The
// client of package nethttp does both.
func NewDirect(url string) (*Client, error) { return New(url, newDirect()) }

// New returns a client of the facilitator at an http or https URL, with an
// optional path.
func New(base string, via Exchanger) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("facilitator URL: %w", err)
	}
	if u.User != nil {
		return nil, errors.New("facilitator URL: without a user and password: offers tell it to everybody")
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("facilitator URL %q: want http://HOST[:PORT][/PATH] or https", base)
	}
	return &Client{base: strings.TrimRight(base, "/"), via: via}, nil
}

// Supported asks what the facilitator can do.
func (c *Client) Supported(ctx context.Context) (x402.Supported, error) {
	var s x402.Supported
	err := c.call(ctx, request{"GET", "/supported", nil}, &s)
	return s, err
}

// Verify checks a payment without settling it. An invalid one is a
// *RefusedError, and the response is returned beside it.
func (c *Client) Verify(ctx context.Context, p x402.PaymentPayload, r x402.Requirements) (x402.VerifyResponse, error) {
	var v x402.VerifyResponse
	body := x402.FacilitatorRequest{Version: x402.Version, Payload: p, Requirements: r}
	if err := c.call(ctx, request{"POST", "/verify", body}, &v); err != nil {
		return v, err
	}
	if !v.IsValid {
		return v, refused(v.InvalidReason, v.InvalidMessage)
	}
	return v, nil
}

// Settle executes a payment or an operation on channels. A failed one is a
// *RefusedError, and the response is returned beside it.
func (c *Client) Settle(ctx context.Context, p x402.PaymentPayload, r x402.Requirements) (x402.SettlementResponse, error) {
	body := x402.FacilitatorRequest{Version: x402.Version, Payload: p, Requirements: r}
	return c.settle(ctx, request{"POST", "/settle", body})
}

func (c *Client) settle(ctx context.Context, r request) (x402.SettlementResponse, error) {
	var s x402.SettlementResponse
	if err := c.call(ctx, r, &s); err != nil {
		return s, err
	}
	if !s.Success {
		return s, refused(s.ErrorReason, s.ErrorMessage)
	}
	return s, nil
}

// request is one call; body is nil or becomes JSON.
type request struct {
	method, path string
	body         any
}

// call sends r and decodes the answer into out. Answers of 4xx that carry the
// expected object, as the standard's facilitators send them, are decoded too.
func (c *Client) call(ctx context.Context, r request, out any) error {
	resp, err := c.send(ctx, r)
	if err != nil {
		return fmt.Errorf("%w: %s %s: %w", ErrUnavailable, r.method, c.base+r.path, inTime(err))
	}
	switch {
	case resp.Status == 200:
		if err := x402.Unmarshal(resp.Body, out); err != nil {
			return fmt.Errorf("%w: %s answered nonsense: %w", ErrUnavailable, c.base+r.path, err)
		}
		return nil
	case resp.Status == 408 || resp.Status == 429: // RFC 9110 §15.5.9, RFC 6585 §4: ask again
	case resp.Status >= 300 && resp.Status < 400:
		return fmt.Errorf("%w: %s has moved to %q: name the new URL", ErrUnavailable, c.base+r.path, excerpt([]byte(resp.Location), 120))
	case resp.Status >= 400 && resp.Status < 500:
		return refusal(resp.Status, resp.Body)
	}
	// Not %w: whatever the text says, it is no refusal.
	return fmt.Errorf("%w: %s %s: status %d: %s", ErrUnavailable, r.method, c.base+r.path, resp.Status, refusal(resp.Status, resp.Body).Message)
}

func (c *Client) send(ctx context.Context, r request) (Answer, error) {
	var body []byte
	if r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			return Answer{}, err
		}
	}
	return c.via.Exchange(ctx, r.method, c.base+r.path, body)
}

// A lateError is a deadline that passed, whoever set it, in words for people.
type lateError struct{ error }

func (e lateError) Error() string { return "no answer in time" }
func (e lateError) Unwrap() error { return e.error }

// inTime puts an error of a deadline into words.
func inTime(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return lateError{err}
	}
	return err
}

// refused is a refusal whose text is one line and bounded, whatever it quotes.
func refused(code, message string) *RefusedError {
	const limit = 1000 // which call a payer is to make himself fits
	return &RefusedError{excerpt([]byte(code), 120), excerpt([]byte(message), limit)}
}

// refusal reads whichever of the standard's error members an answer has.
func refusal(status int, data []byte) *RefusedError {
	var e struct {
		Settle  string `json:"errorReason"`
		Verify  string `json:"invalidReason"`
		Ours    string `json:"error"`
		SettleM string `json:"errorMessage"`
		VerifyM string `json:"invalidMessage"`
		OursM   string `json:"message"`
	}
	if err := x402.Unmarshal(data, &e); err == nil {
		for _, r := range [...]RefusedError{{e.Settle, e.SettleM}, {e.Verify, e.VerifyM}, {e.Ours, e.OursM}} {
			if r.Code != "" {
				return refused(r.Code, r.Message)
			}
		}
	}
	return &RefusedError{Code: fmt.Sprintf("http_%d", status), Message: excerpt(data, 120)}
}

// excerpt bounds what an error repeats of an answer.
func excerpt(data []byte, limit int) string {
	s := strings.Join(strings.Fields(strings.ToValidUTF8(string(data), "?")), " ")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

// Channel asks for the network's view of a channel.
func (c *Client) Channel(ctx context.Context, network string, id channel.ID) (x402.ChannelInfo, error) {
	var i x402.ChannelInfo
	err := c.call(ctx, request{"GET", "/v1/channels/" + url.PathEscape(network) + "/" + id.String(), nil}, &i)
	if err == nil && i.Channel != id {
		err = fmt.Errorf("%w: asked for channel %s, got %s", ErrUnavailable, id, i.Channel)
	}
	return i, err
}

// Balance asks for an account, and for what was claimed for it as a receiver.
func (c *Client) Balance(ctx context.Context, network string, a channel.Address) (x402.AccountInfo, error) {
	var i x402.AccountInfo
	err := c.call(ctx, request{"GET", "/v1/accounts/" + url.PathEscape(network) + "/" + a.String(), nil}, &i)
	if err == nil && i.Address != a {
		err = fmt.Errorf("%w: asked for account %s, got %s", ErrUnavailable, a, i.Address)
	}
	return i, err
}

// Totals asks where all credit of a ledger is.
func (c *Client) Totals(ctx context.Context, network string) (x402.Totals, error) {
	var t x402.Totals
	err := c.call(ctx, request{"GET", "/v1/totals/" + url.PathEscape(network), nil}, &t)
	return t, err
}
