package h2

import (
	"bytes"
	"cmp"
	"errors"
	"maps"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"

	"github.com/depinsim/x402/tunnel"
)

// maxHeader bounds the head of a request or answer, before and after
// decompression.
const maxHeader = 8 << 10

// Fields of our own, docs/PROTOCOL.md §11.1.
const (
	fieldProtocol = "x402-protocol" // of a POST that stands for an extended CONNECT
	fieldReset    = "x402-reset"    // trailer: this direction was aborted
	fieldStatus   = "proxy-status"  // trailer: the target broke, RFC 9209 §2
)

// A block is a decoded header block.
type block struct {
	pseudo map[string]string
	fields tunnel.Fields
	bad    error // malformed (RFC 9113 §8.1.1), though well compressed
}

var (
	errMalformed = errors.New("h2: malformed head")
	errLarge     = errors.New("h2: head too large")
)

// A decoder decompresses the header blocks of one connection.
type decoder struct {
	hpack *hpack.Decoder
	in    block
	size  int // of in, as RFC 9113 §6.5.2 counts
}

func newDecoder() *decoder {
	d := &decoder{}
	d.hpack = hpack.NewDecoder(4096, d.emit)
	d.hpack.SetMaxStringLength(maxHeader)
	return d
}

// decode decodes one whole header block. An error is one of the connection's.
func (d *decoder) decode(b []byte) (block, error) {
	d.in = block{pseudo: map[string]string{}, fields: tunnel.Fields{}}
	d.size = 0
	if _, err := d.hpack.Write(b); err != nil {
		return block{}, connError{codeCompression, err.Error()}
	}
	if err := d.hpack.Close(); err != nil {
		return block{}, connError{codeCompression, err.Error()}
	}
	return d.in, nil
}

func (d *decoder) emit(f hpack.HeaderField) {
	d.size += int(f.Size())
	switch name, pseudo := strings.CutPrefix(f.Name, ":"); {
	case d.size > maxHeader:
		d.in.bad = errLarge
	case pseudo:
		if _, again := d.in.pseudo[name]; again || len(d.in.fields) > 0 {
			d.in.bad = errMalformed
		}
		d.in.pseudo[name] = f.Value
	case tunnel.CheckField(f.Name, f.Value) != nil:
		d.in.bad = errMalformed
	default:
		d.in.fields.Add(f.Name, f.Value)
	}
}

// An encoder compresses the header blocks of one connection.
type encoder struct {
	out   bytes.Buffer
	hpack *hpack.Encoder
}

func newEncoder() *encoder {
	e := &encoder{}
	e.hpack = hpack.NewEncoder(&e.out)
	e.hpack.SetMaxDynamicTableSizeLimit(4096) // whatever the peer would take
	return e
}

// encode returns a header block; it is valid until the next call. pseudo are
// names and values in turn.
func (e *encoder) encode(fields tunnel.Fields, pseudo ...string) []byte {
	e.out.Reset()
	for i := 0; i < len(pseudo); i += 2 {
		e.field(":"+pseudo[i], pseudo[i+1])
	}
	for name, values := range fields {
		for _, v := range values {
			e.field(name, v)
		}
	}
	return e.out.Bytes()
}

func (e *encoder) field(name, value string) {
	// Targets and proofs do not belong into a table that outlives the request.
	sensitive := name == ":authority" || name == ":path" || strings.Contains(name, "authorization")
	_ = e.hpack.WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: sensitive}) // a buffer takes all
}

// request encodes the head of a request. What HTTP/3 has as an extended CONNECT
// is a POST that names the protocol: an extended CONNECT would have to wait for
// the agent's SETTINGS (RFC 8441 §3), a round trip.
func (e *encoder) request(h tunnel.Header) []byte {
	fields := tunnel.Fields{}
	maps.Copy(fields, h.Fields)
	if h.Method == tunnel.MethodConnect && h.Protocol == "" {
		fields["te"] = []string{"trailers"} // see Fail
		return e.encode(fields, "method", h.Method, "authority", h.Authority)
	}
	method := h.Method
	if h.Protocol != "" {
		method = "POST"
		fields[fieldProtocol] = []string{h.Protocol}
	}
	return e.encode(fields, "method", method, "scheme", "https", "authority", h.Authority, "path", cmp.Or(h.Path, "/"))
}

// request turns a block into the head of a request.
func (b block) request() (tunnel.Header, error) {
	if b.bad != nil {
		return tunnel.Header{}, b.bad
	}
	h := tunnel.Header{Method: b.pseudo["method"], Authority: b.pseudo["authority"], Fields: b.fields}
	path, hasPath := b.pseudo["path"]
	_, hasScheme := b.pseudo["scheme"]
	protocol, extended := b.pseudo["protocol"]
	_, isAnswer := b.pseudo["status"]
	if h.Authority == "" {
		h.Authority = b.fields.Get("host")
	}
	switch plain := h.Method == tunnel.MethodConnect && !extended; {
	case h.Method == "" || isAnswer, extended && h.Method != tunnel.MethodConnect,
		plain && (hasPath || hasScheme || h.Authority == ""), // RFC 9113 §8.5
		!plain && (!hasScheme || !strings.HasPrefix(path, "/")):
		return tunnel.Header{}, errMalformed
	case plain:
		return h, nil
	}
	path, _, _ = strings.Cut(path, "?")
	if _, err := url.ParseRequestURI(path); err != nil {
		return tunnel.Header{}, errMalformed
	}
	h.Path, h.Protocol = path, protocol
	if p := b.fields.Get(fieldProtocol); p != "" && h.Method == "POST" {
		h.Method, h.Protocol = tunnel.MethodConnect, p
	}
	return h, nil
}

// status is the status of an answer's block.
func (b block) status() (int, error) {
	n, err := strconv.Atoi(b.pseudo["status"])
	switch {
	case b.bad != nil:
		return 0, b.bad
	case err != nil || n < 100 || n > 999:
		return 0, errMalformed
	}
	return n, nil
}

// trailer says how the direction ends that a trailer section closes: nil in
// order.
func (b block) trailer() error {
	if b.bad != nil || len(b.pseudo) > 0 {
		return errMalformed
	}
	if reset := b.fields.Get(fieldReset); reset != "" {
		code, err := strconv.ParseUint(reset, 16, 62)
		if err != nil {
			return errMalformed
		}
		return &StreamError{Code: code, Remote: true}
	}
	if b.fields.Get(fieldStatus) != "" {
		return tunnel.ErrBroken
	}
	return nil
}
