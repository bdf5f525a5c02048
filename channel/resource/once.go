package resource

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"regexp"
	"sync"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// The extension payment-identifier: a client names a payment, and may send the
// same request again without paying twice.
const (
	identifierName = "payment-identifier"

	maxAnswers = 1024      // remembered; the oldest is forgotten
	maxAnswer  = 64 << 10  // bytes of a body that is remembered
	answerLife = time.Hour // how long one is
)

var identifierForm = regexp.MustCompile(`^[A-Za-z0-9_-]{16,128}$`)

// IdentifierOf returns the name that a client gave a payment by the extension
// payment-identifier, "" for one without.
func IdentifierOf(p x402.PaymentPayload) (string, error) { return identifierOf(p, false) }

// identifierOf returns the payment's name, "" for one without.
func identifierOf(p x402.PaymentPayload, required bool) (string, error) {
	var e struct {
		Info struct {
			ID *string `json:"id"`
		} `json:"info"`
	}
	if text, ok := p.Extensions[identifierName]; ok {
		if err := json.Unmarshal(text, &e); err != nil {
			return "", malformed(x402.ErrInvalidPayload, identifierName+" is malformed")
		}
	}
	switch id := e.Info.ID; {
	case id != nil && !identifierForm.MatchString(*id):
		return "", malformed(x402.ErrInvalidPayload, identifierName+": want 16 to 128 letters, digits, - and _")
	case id != nil:
		return *id, nil
	case required:
		return "", malformed(x402.ErrInvalidPayload, "this resource wants a "+identifierName)
	}
	return "", nil
}

// An answerKey names a request: another payer cannot take a name away.
type answerKey struct {
	payer channel.Address
	id    string
}

// answers are what was answered to named requests that were served. They are
// kept in memory: after a restart a client that lost an answer is told by the
// corrective 402 that it has paid.
type answers struct {
	mu    sync.Mutex
	byKey map[answerKey]*kept // those in work too
	order []*kept             // those that are complete, as they were
}

// kept is one answer. All but done is written before done is closed.
type kept struct {
	key    answerKey
	of     [sha256.Size]byte // the request
	when   time.Time
	done   chan struct{} // closed when the answer is complete, or there is none
	ok     bool          // there is one
	status int
	header http.Header
	body   bytes.Buffer
	long   bool // too much to be kept
	whole  bool // the body is there, to its end
}

// begin returns what is kept under key; mine says that there was nothing, and
// the caller is to complete it.
func (a *answers) begin(key answerKey, of [sha256.Size]byte) (k *kept, mine bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.forget(maxAnswers)
	if k := a.byKey[key]; k != nil {
		return k, false
	}
	k = &kept{key: key, of: of, done: make(chan struct{})}
	if a.byKey == nil {
		a.byKey = map[answerKey]*kept{}
	}
	a.byKey[key] = k
	return k, true
}

// end completes an answer, or forgets it if nothing was served: what strangers
// send takes nobody's place.
func (a *answers) end(k *kept) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if k.ok = k.header.Get(x402.HeaderResponse) != "" && k.status < 400; k.ok {
		a.forget(maxAnswers - 1)
		k.when = time.Now()
		a.order = append(a.order, k)
	} else {
		delete(a.byKey, k.key)
	}
	close(k.done)
}

// forget drops what is old, and the oldest of more than most.
func (a *answers) forget(most int) {
	for len(a.order) > most || len(a.order) > 0 && time.Since(a.order[0].when) > answerLife {
		delete(a.byKey, a.order[0].key)
		a.order = a.order[1:]
	}
}

// once serves a named request, or gives again the answer that the same request
// got. It is looked up before the payment is checked, which a repetition would
// not pass, and so it must be the same to the byte.
func (h *handler) once(w http.ResponseWriter, r *http.Request, key answerKey, payment string, serve func(http.ResponseWriter)) {
	of := sha256.Sum256([]byte(r.Method + " " + r.Host + r.URL.RequestURI() + "\n" + payment))
	k, mine := h.answers.begin(key, of)
	if mine {
		defer h.answers.end(k) // also when the handler panics
		serve(&recorder{w, k})
		k.whole = !k.long
		return
	}
	conflict := func(message string) {
		h.refuse(w, r, &refusal{status: http.StatusConflict, code: x402.ErrInvalidPayload, message: message}, "")
	}
	if k.of != of {
		conflict("this " + identifierName + " was used for another payment or resource")
		return
	}
	select {
	case <-k.done:
	case <-r.Context().Done():
		return
	}
	switch {
	case !k.ok: // what was wrong may be right by now
		h.once(w, r, key, payment, serve)
	case !k.whole:
		conflict("this request was answered and paid for, and the answer was cut off or too long to be kept")
	default:
		maps.Copy(w.Header(), k.header)
		w.WriteHeader(k.status)
		_, _ = io.Copy(w, bytes.NewReader(k.body.Bytes())) // a client that left is no concern
	}
}

// A recorder keeps what it passes on.
type recorder struct {
	http.ResponseWriter
	k *kept
}

func (r *recorder) WriteHeader(status int) {
	if r.k.status == 0 {
		r.k.status, r.k.header = status, r.Header().Clone()
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.k.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	if r.k.long = r.k.long || r.k.body.Len()+len(b) > maxAnswer; r.k.long {
		r.k.body = bytes.Buffer{}
	} else {
		r.k.body.Write(b)
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
