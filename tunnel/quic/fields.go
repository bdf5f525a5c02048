package quic

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/apernet/quic-go/http3"
	"github.com/apernet/quic-go/quicvarint"
	"github.com/quic-go/qpack"
	"golang.org/x/net/http/httpguts"

	"github.com/depinsim/x402/tunnel"
)

// hopFields are of a connection, which HTTP/3 has other means for (RFC 9114
// §4.2).
var hopFields = [...]string{"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}

// requestHead returns the HEADERS frame of a request (RFC 9114 §4.3.1, RFC
// 9220 §3). A CONNECT without a protocol says that it takes trailers: see
// [stream.Fail].
func requestHead(h tunnel.Header) ([]byte, error) {
	if !httpguts.ValidHeaderFieldName(h.Method) || h.Authority == "" || !httpguts.ValidHostHeader(h.Authority) {
		return nil, fmt.Errorf("quic: no request is %.64q %.64q", h.Method, h.Authority)
	}
	plain := h.Method == http.MethodConnect && h.Protocol == ""
	var block bytes.Buffer
	enc := qpack.NewEncoder(&block)
	put := func(name, value string) {
		_ = enc.WriteField(qpack.HeaderField{Name: name, Value: value}) // a Buffer takes all
	}
	put(":method", h.Method)
	put(":authority", h.Authority)
	switch {
	case plain && h.Path != "":
		return nil, fmt.Errorf("quic: a CONNECT has no path: %.64q", h.Path)
	case !plain:
		path, err := checkPath(h.Path)
		if err != nil {
			return nil, err
		}
		put(":scheme", "https")
		put(":path", path)
	}
	if h.Protocol != "" {
		if h.Method != http.MethodConnect || !httpguts.ValidHeaderFieldName(h.Protocol) {
			return nil, fmt.Errorf("quic: no protocol is %.64q of %s", h.Protocol, h.Method)
		}
		put(":protocol", h.Protocol)
	}
	for _, key := range slices.Sorted(maps.Keys(h.Fields)) {
		name := strings.ToLower(key)
		for _, value := range h.Fields[key] {
			if err := checkField(name, value); err != nil {
				return nil, fmt.Errorf("quic: %w", err)
			}
			put(name, value)
		}
	}
	if plain {
		put("te", "trailers")
	}
	b := quicvarint.Append([]byte{frameHeaders}, uint64(block.Len()))
	return append(b, block.Bytes()...), nil
}

// checkPath returns what :path is: never empty, and visible ASCII.
func checkPath(path string) (string, error) {
	if path == "" {
		return "/", nil
	}
	if path[0] != '/' || strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r > '~' || r == '#' }) {
		return "", fmt.Errorf("quic: no path is %.64q", path)
	}
	return path, nil
}

// checkField says whether a field may be in a message (RFC 9114 §4.2).
func checkField(name, value string) error {
	if !httpguts.ValidHeaderFieldName(name) || strings.ToLower(name) != name || slices.Contains(hopFields[:], name) {
		return fmt.Errorf("no field is %.64q", name)
	}
	if !httpguts.ValidHeaderFieldValue(value) {
		return fmt.Errorf("field %.64s has no value %.64q", name, value)
	}
	return nil
}

// eachField decodes a field section.
func eachField(block []byte, field func(name, value string) error) error {
	next := qpack.NewDecoder().Decode(block)
	room := maxHeader
	for {
		f, err := next()
		if err == io.EOF {
			return nil
		}
		if err != nil { // RFC 9204 §2.2
			return broke(http3.ErrCodeQPACKDecompressionFailed, "QPACK: %w", err)
		}
		if room -= len(f.Name) + len(f.Value) + 32; room < 0 { // RFC 9114 §4.2.2
			return &fault{http3.ErrCodeExcessiveLoad, true, fmt.Errorf("a field section of more than %d bytes", maxHeader)}
		}
		if err := field(f.Name, f.Value); err != nil {
			return err
		}
	}
}

// parseAnswer returns what an answer's head says (RFC 9114 §4.3.2).
func parseAnswer(block []byte) (status int, fields http.Header, err error) {
	fields = make(http.Header)
	err = eachField(block, func(name, value string) error {
		if name == ":status" && status == 0 && len(fields) == 0 {
			status, err = parseStatus(value)
			return err
		}
		if err := checkField(name, value); err != nil { // no pseudo-header is a field's name
			return malformed("%w", err)
		}
		fields.Add(name, value)
		return nil
	})
	if err == nil && status == 0 {
		err = malformed("no status")
	}
	if err != nil {
		return 0, nil, err
	}
	return status, fields, nil
}

// parseStatus parses a status code (RFC 9110 §15), but not 101 (RFC 9114 §4.5).
func parseStatus(s string) (int, error) {
	digit := func(i int) int { return int(s[i]) - '0' }
	if len(s) != 3 || digit(0) < 1 || digit(0) > 5 || digit(1) < 0 || digit(1) > 9 || digit(2) < 0 || digit(2) > 9 {
		return 0, malformed("status %.16q", s)
	}
	status := digit(0)*100 + digit(1)*10 + digit(2)
	if status == http.StatusSwitchingProtocols {
		return 0, malformed("status %d", status)
	}
	return status, nil
}

// parseTrailers returns a trailer section, which has no pseudo-headers (RFC
// 9114 §4.3).
func parseTrailers(block []byte) (http.Header, error) {
	fields := make(http.Header)
	err := eachField(block, func(name, value string) error {
		if err := checkField(name, value); err != nil {
			return malformed("%w", err)
		}
		fields.Add(name, value)
		return nil
	})
	return fields, err
}
