package quic

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/apernet/quic-go/quicvarint"
	"github.com/quic-go/qpack"

	"github.com/depinsim/x402/tunnel"
)

// requestHead returns the HEADERS frame of a request (RFC 9114 §4.3.1, RFC
// 9220 §3). A CONNECT without a protocol says that it takes trailers: see
// [reply.Fail].
func requestHead(h tunnel.Header) ([]byte, error) {
	if !tunnel.IsToken(h.Method) || !isAuthority(h.Authority) {
		return nil, fmt.Errorf("quic: no request is %.64q %.64q", h.Method, h.Authority)
	}
	plain := h.Method == tunnel.MethodConnect && h.Protocol == ""
	s := newSection()
	s.put(":method", h.Method)
	s.put(":authority", h.Authority)
	switch {
	case plain && h.Path != "":
		return nil, fmt.Errorf("quic: a CONNECT has no path: %.64q", h.Path)
	case !plain:
		path, err := checkPath(h.Path)
		if err != nil {
			return nil, err
		}
		s.put(":scheme", "https")
		s.put(":path", path)
	}
	if h.Protocol != "" {
		if h.Method != tunnel.MethodConnect || !tunnel.IsToken(h.Protocol) {
			return nil, fmt.Errorf("quic: no protocol is %.64q of %s", h.Protocol, h.Method)
		}
		s.put(":protocol", h.Protocol)
	}
	if err := s.putAll(h.Fields); err != nil {
		return nil, err
	}
	if plain {
		s.put("te", "trailers")
	}
	return s.frame(), nil
}

// answerHead returns the HEADERS frame of an answer (RFC 9114 §4.3.2), with its
// content's length unless that is negative.
func answerHead(status int, fields tunnel.Fields, length int) ([]byte, error) {
	s := newSection()
	s.put(":status", strconv.Itoa(status))
	if err := s.putAll(fields); err != nil {
		return nil, err
	}
	if length >= 0 {
		s.put("content-length", strconv.Itoa(length))
	}
	return s.frame(), nil
}

// A section is a field section that is being encoded.
type section struct {
	block bytes.Buffer
	enc   *qpack.Encoder
}

func newSection() *section {
	s := &section{}
	s.enc = qpack.NewEncoder(&s.block)
	return s
}

func (s *section) put(name, value string) {
	_ = s.enc.WriteField(qpack.HeaderField{Name: name, Value: value}) // a Buffer takes all
}

func (s *section) putAll(fields tunnel.Fields) error {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		for _, value := range fields[name] {
			if err := tunnel.CheckField(name, value); err != nil {
				return fmt.Errorf("quic: %w", err)
			}
			s.put(name, value)
		}
	}
	return nil
}

func (s *section) frame() []byte {
	b := quicvarint.Append([]byte{frameHeaders}, uint64(s.block.Len()))
	return append(b, s.block.Bytes()...)
}

// isAuthority says whether s has only what names, addresses and ports are
// written in (RFC 3986 §3.2), if not in this order.
func isAuthority(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("\"#/<>?@\\^`{|}", r)
	})
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
			return broke(codeQPACKDecompression, "QPACK: %w", err)
		}
		if room -= len(f.Name) + len(f.Value) + 32; room < 0 { // RFC 9114 §4.2.2
			return tooMuch("a field section of more than %d bytes", maxHeader)
		}
		if err := field(f.Name, f.Value); err != nil {
			return err
		}
	}
}

// parseRequest returns what a request's head says (RFC 9114 §4.3.1, §4.4, RFC
// 9220 §3). Its path is without the query.
func parseRequest(block []byte) (tunnel.Header, error) {
	h := tunnel.Header{Fields: make(tunnel.Fields)}
	scheme := ""
	pseudo := map[string]*string{
		":method": &h.Method, ":scheme": &scheme, ":authority": &h.Authority, ":path": &h.Path, ":protocol": &h.Protocol,
	}
	err := eachField(block, func(name, value string) error {
		if !strings.HasPrefix(name, ":") {
			return addField(h.Fields, name, value)
		}
		to := pseudo[name]
		if to == nil || *to != "" || value == "" || !tunnel.IsValue(value) || len(h.Fields) > 0 {
			return malformed("%.64s: %.64q", name, value)
		}
		*to = value
		return nil
	})
	if err == nil {
		err = checkRequest(&h, scheme)
	}
	if err != nil {
		return tunnel.Header{}, err
	}
	return h, nil
}

// checkRequest says whether a request's parts fit together, and cuts the query
// off its path.
func checkRequest(h *tunnel.Header, scheme string) error {
	connect := h.Method == tunnel.MethodConnect
	switch {
	case !tunnel.IsToken(h.Method):
		return malformed("method %.64q", h.Method)
	case connect && h.Protocol == "":
		if h.Authority == "" || scheme != "" || h.Path != "" {
			return malformed("a CONNECT of more or less than an authority")
		}
		return nil
	case h.Protocol != "" && (!connect || !tunnel.IsToken(h.Protocol)):
		return malformed("protocol %.64q of %.64s", h.Protocol, h.Method)
	}
	hosts := h.Fields["host"]
	if h.Authority == "" && len(hosts) > 0 {
		h.Authority = hosts[0]
	}
	for _, host := range hosts {
		if host != h.Authority {
			return malformed("host %.64q of %.64q", host, h.Authority)
		}
	}
	h.Path, _, _ = strings.Cut(h.Path, "?")
	asterisk := h.Path == "*" && h.Method == "OPTIONS" // RFC 9110 §7.1
	if _, err := checkPath(h.Path); scheme == "" || h.Authority == "" || h.Path == "" || err != nil && !asterisk {
		return malformed("scheme %.64q, authority %.64q, path %.64q", scheme, h.Authority, h.Path)
	}
	if connect {
		return nil
	}
	_, err := parseLength(h.Fields)
	return err
}

// addField adds a field that is no pseudo-header.
func addField(fields tunnel.Fields, name, value string) error {
	if err := tunnel.CheckField(name, value); err != nil { // no pseudo-header's name is a field's
		return malformed("%w", err)
	}
	fields.Add(name, value)
	return nil
}

// parseAnswer returns what an answer's head says (RFC 9114 §4.3.2).
func parseAnswer(block []byte) (status int, fields tunnel.Fields, err error) {
	fields = make(tunnel.Fields)
	err = eachField(block, func(name, value string) error {
		if name == ":status" && status == 0 && len(fields) == 0 {
			status, err = parseStatus(value)
			return err
		}
		return addField(fields, name, value)
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
	if len(s) != 3 || s == "101" || digit(0) < 1 || digit(0) > 5 || digit(1) < 0 || digit(1) > 9 || digit(2) < 0 || digit(2) > 9 {
		return 0, malformed("status %.16q", s)
	}
	return digit(0)*100 + digit(1)*10 + digit(2), nil
}

// parseTrailers returns a trailer section, which has no pseudo-headers (RFC
// 9114 §4.3).
func parseTrailers(block []byte) (tunnel.Fields, error) {
	fields := make(tunnel.Fields)
	err := eachField(block, func(name, value string) error { return addField(fields, name, value) })
	return fields, err
}

// contentLength is how long the content of an answer is to be; -1 is unknown
// (RFC 9110 §8.6 and §9.3.6, RFC 9114 §4.1.2).
func contentLength(method string, status int, fields tunnel.Fields) (int64, error) {
	if method == "HEAD" || method == tunnel.MethodConnect && status < 300 || status == 204 || status == 304 {
		return -1, nil
	}
	return parseLength(fields)
}

// parseLength returns the Content-Length (RFC 9110 §8.6), -1 if there is none.
func parseLength(fields tunnel.Fields) (int64, error) {
	values := fields["content-length"]
	if len(values) == 0 {
		return -1, nil
	}
	n, err := strconv.ParseUint(values[0], 10, 63)
	if err != nil || slices.ContainsFunc(values, func(v string) bool { return v != values[0] }) {
		return 0, malformed("content-length %.64q", values)
	}
	return int64(n), nil
}
