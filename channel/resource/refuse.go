package resource

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/facilitator"
	"github.com/depinsim/x402/channel/x402"
)

// maxURL bounds how much of a request's own URL is repeated to it.
const maxURL = 1024

// A refusal is why a request is not served.
type refusal struct {
	status        int    // 0: 402
	code, message string // the standard's, and for people
	// settled says that the payment failed while it was executed; payer is whose
	// it was then.
	settled bool
	payer   *channel.Address
	// channel and voucher correct a payer who counts differently.
	channel *x402.ChannelState
	voucher *x402.VoucherState
}

func (e *refusal) Error() string { return e.message }

func malformed(code, message string) *refusal {
	return &refusal{status: http.StatusBadRequest, code: code, message: message}
}

// failure turns an error into a refusal: of the state, of the facilitator, or
// our own.
func failure(err error, unexpected string) *refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r
	}
	if s, ok := errors.AsType[*channel.StateError](err); ok {
		return &refusal{code: string(s.Reason), message: s.Detail}
	}
	if f, ok := errors.AsType[*facilitator.RefusedError](err); ok {
		return &refusal{code: f.Code, message: f.Message}
	}
	return &refusal{status: http.StatusInternalServerError, code: unexpected}
}

// refuse answers a request that is not served.
func (h *handler) refuse(w http.ResponseWriter, r *http.Request, err error, unexpected string) {
	e := failure(err, unexpected)
	if e.status == 0 {
		e.status = http.StatusPaymentRequired
	}
	if e.status == http.StatusInternalServerError {
		h.log.Error("payment", "path", r.URL.Path, "err", err)
		e.message = "the payment could not be checked or stored; send the same request again"
	}
	header := w.Header()
	switch {
	case e.settled:
		setHeader(header, x402.HeaderResponse, x402.SettlementResponse{
			ErrorReason: e.code, ErrorMessage: e.message, Payer: e.payer, Network: h.network,
		})
	case e.status == http.StatusPaymentRequired:
		setHeader(header, x402.HeaderRequired, h.required(r, *e))
	}
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	w.WriteHeader(e.status)
	b, _ := json.Marshal(x402.NetworkError{Code: e.code, Message: e.message})
	w.Write(append(b, '\n')) // a client that left is no concern
}

// setHeader sets one of the standard's headers. What fits in no header was
// refused when the route was made.
func setHeader(h http.Header, name string, v any) {
	if text, err := x402.EncodeHeader(v); err == nil {
		h.Set(name, text)
	}
}

// required is what a request is asked for.
func (h *handler) required(r *http.Request, e refusal) x402.PaymentRequired {
	out := x402.PaymentRequired{
		Version: x402.Version, Error: e.code, Accepts: h.accepts,
		Resource:   &x402.Resource{URL: h.urlOf(r), Description: h.route.Description, MIMEType: h.route.MIMEType},
		Extensions: h.extensions.of(r.Method),
	}
	if e.channel == nil {
		return out
	}
	out.Accepts = nil
	for _, a := range h.accepts {
		if a.Scheme == x402.SchemeBatch {
			a.Extra.ChannelState, a.Extra.VoucherState = e.channel, e.voucher
		}
		out.Accepts = append(out.Accepts, a)
	}
	return out
}

// urlOf is what the resource is called by. A query that is too long is left out.
func (h *handler) urlOf(r *http.Request) string {
	base := h.cfg.BaseURL
	if base == "" {
		base = "http://" + r.Host
		if r.TLS != nil {
			base = "https://" + r.Host
		}
	}
	if r.URL == nil {
		return base
	}
	url := base + r.URL.RequestURI()
	if len(url) > maxURL {
		url = base + r.URL.EscapedPath()
	}
	if len(url) > maxURL {
		return base[:min(len(base), maxURL)]
	}
	return url
}
