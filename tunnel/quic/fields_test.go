package quic

import (
	"strings"
	"testing"

	"github.com/apernet/quic-go/quicvarint"
	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/tunnel"
)

func TestRequestHead(t *testing.T) {
	for name, row := range map[string]struct {
		h    tunnel.Header
		want []string
	}{
		"CONNECT": {
			tunnel.Header{Method: "CONNECT", Authority: "[2001:db8::1]:443", Fields: tunnel.Fields{"proxy-authorization": {"a b"}}},
			[]string{":method", "CONNECT", ":authority", "[2001:db8::1]:443", "proxy-authorization", "a b", "te", "trailers"},
		},
		"extended CONNECT": {
			tunnel.Header{Method: "CONNECT", Protocol: "connect-udp", Authority: "x402.invalid", Path: "/a%3Ab/", Fields: tunnel.Fields{"capsule-protocol": {"?1"}}},
			[]string{":method", "CONNECT", ":authority", "x402.invalid", ":scheme", "https", ":path", "/a%3Ab/", ":protocol", "connect-udp", "capsule-protocol", "?1"},
		},
		"GET": {
			tunnel.Header{Method: "GET", Authority: "agent", Fields: tunnel.Fields{"b": {"1", "2"}, "a": {""}}},
			[]string{":method", "GET", ":authority", "agent", ":scheme", "https", ":path", "/", "a", "", "b", "1", "b", "2"},
		},
		"query": {
			tunnel.Header{Method: "GET", Authority: "agent", Path: "/a?b=c"},
			[]string{":method", "GET", ":authority", "agent", ":scheme", "https", ":path", "/a?b=c"},
		},
	} {
		b, err := requestHead(row.h)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		n, used, err := quicvarint.Parse(b[1:])
		if b[0] != frameHeaders || err != nil || int(n) != len(b)-1-used {
			t.Errorf("%s: frame %x", name, b)
			continue
		}
		var got []string
		if err := eachField(b[1+used:], func(name, value string) error {
			got = append(got, name, value)
			return nil
		}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(row.want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestRequestHeadRefuses(t *testing.T) {
	for name, h := range map[string]tunnel.Header{
		"no method":               {Authority: "a"},
		"method of two words":     {Method: "GET /", Authority: "a"},
		"no authority":            {Method: "GET"},
		"authority in two lines":  {Method: "GET", Authority: "a\r\nb"},
		"path of a CONNECT":       {Method: "CONNECT", Authority: "a:1", Path: "/"},
		"relative path":           {Method: "GET", Authority: "a", Path: "x"},
		"path with a space":       {Method: "GET", Authority: "a", Path: "/a b"},
		"path beyond ASCII":       {Method: "GET", Authority: "a", Path: "/ä"},
		"path of broken UTF-8":    {Method: "GET", Authority: "a", Path: "/\xff"},
		"fragment":                {Method: "GET", Authority: "a", Path: "/a#b"},
		"protocol of a GET":       {Method: "GET", Protocol: "x", Authority: "a"},
		"protocol of two words":   {Method: "CONNECT", Protocol: "x y", Authority: "a", Path: "/"},
		"name with a colon":       {Method: "GET", Authority: "a", Fields: tunnel.Fields{":path": {"/"}}},
		"value in two lines":      {Method: "GET", Authority: "a", Fields: tunnel.Fields{"a": {"b\nc"}}},
		"field of the connection": {Method: "GET", Authority: "a", Fields: tunnel.Fields{"connection": {"close"}}},
	} {
		if b, err := requestHead(h); err == nil {
			t.Errorf("%s: %q", name, b)
		}
	}
}

// FuzzFields decodes a field section: what a message is made of could be sent
// in another, and is no more than the bound.
func FuzzFields(f *testing.F) {
	f.Add([]byte(head(":status", "200", "via", "x"))[2:])
	f.Add([]byte(broken)[2:])
	f.Add([]byte("\x00\x00" + strings.Repeat("\xf5", 300)))
	f.Add([]byte("\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(fields tunnel.Fields) {
			size := 0
			for name, values := range fields {
				for _, v := range values {
					size += len(name) + len(v) + 32
					if err := tunnel.CheckField(name, v); err != nil {
						t.Errorf("field %q: %v", name, err)
					}
				}
			}
			if size > maxHeader {
				t.Errorf("%d bytes", size)
			}
		}
		if status, fields, err := parseAnswer(b); err == nil {
			if check(fields); status < 100 || status > 599 {
				t.Errorf("status %d", status)
			}
		}
		if h, err := parseRequest(b); err == nil {
			check(h.Fields)
		}
		if fields, err := parseTrailers(b); err == nil {
			check(fields)
		}
	})
}
