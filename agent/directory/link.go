package directory

import (
	"context"
	"errors"
	"html"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/server"
)

// A rotation link is signed by its agent: one that is not is refused here, and
// costs the agent nothing. To look at one changes nothing, since programs look at
// links too; only POST uses it. This relay sees a link that is used, and could use
// it itself, within its bounds.

// linkTime is how long a link's request may take, more than server.Server.Rotate.
const linkTime = 10 * time.Minute

// A linkResult is what came of a link.
type linkResult struct {
	Changed bool       `json:"changed"`
	Old     netip.Addr `json:"old,omitzero"`
	New     netip.Addr `json:"new,omitzero"`
	Error   string     `json:"error,omitempty"`
}

// serveLink shows a link, or uses it.
func (d *Directory) serveLink(w http.ResponseWriter, r *http.Request, text string) {
	link, by, err := agent.ParseLink(text)
	var res linkResult
	status := http.StatusOK
	switch {
	case err != nil || d.rotate == nil:
		status, res.Error = http.StatusNotFound, "this is no rotation link"
	case link.Expires <= time.Now().Unix():
		status, res.Error = http.StatusGone, "the link has expired"
	case r.Method != http.MethodPost:
	default:
		c := http.NewResponseController(w)
		deadline := time.Now().Add(linkTime)
		if err := errors.Join(c.SetReadDeadline(deadline), c.SetWriteDeadline(deadline)); err != nil {
			status, res.Error = http.StatusInternalServerError, "no time for that"
			break
		}
		status, res = d.useLink(r.Context(), relay.Address(by), text)
	}
	if asksForPage(r) {
		servePage(w, status, res)
		return
	}
	if status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "60")
	}
	answer(w, status, marshal(res))
}

// useLink has the agent change its address.
func (d *Directory) useLink(ctx context.Context, by relay.Address, text string) (status int, res linkResult) {
	b, err := d.rotate(ctx, by, text)
	var r agent.Rotated
	if err == nil {
		r, err = agent.ParseRotated(b)
	}
	switch {
	case errors.Is(err, server.ErrAbsent):
		status = http.StatusNotFound
	case errors.Is(err, server.ErrBusy):
		status = http.StatusTooManyRequests
	case errors.Is(err, server.ErrUnheard):
		status = http.StatusGatewayTimeout
	case err != nil:
		status = http.StatusBadGateway
	case !r.Changed:
		return http.StatusConflict, linkResult{Old: r.Old, New: r.New, Error: r.Error}
	default:
		return http.StatusOK, linkResult{Changed: true, Old: r.Old, New: r.New}
	}
	return status, linkResult{Error: err.Error()}
}

// asksForPage says whether a browser asks. Whoever only looks sees the page, too.
func asksForPage(r *http.Request) bool {
	return r.Method != http.MethodPost || strings.Contains(r.Header.Get("Accept"), "text/html")
}

const (
	pageHead = `<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="robots" content="noindex"><title>Change the address</title>
<style>body{font:1.1em sans-serif;max-width:30em;margin:3em auto;padding:0 1em}button{font:inherit;padding:.5em 1em}</style>
`
	pageButton = `<form method="post"><button>Change the address</button></form>
<p>It takes seconds to minutes. What is being fetched through the line is cut off.
`
)

// servePage writes the page of a link: its button, or what came of it.
func servePage(w http.ResponseWriter, status int, res linkResult) {
	text := "<p>This link has an X402 agent's carrier give it another public address.\n" + pageButton
	switch {
	case res.Changed:
		text = "<p>" + res.Old.String() + " is <b>" + res.New.String() + "</b> now.\n"
	case res.Error != "":
		text = "<p>The address was not changed: " + html.EscapeString(res.Error) + ".\n"
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(pageHead + text)) // a client that is gone is no news
}
