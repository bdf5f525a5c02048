package quic

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/depinsim/x402/tunnel"
)

// head returns a HEADERS frame of names and values.
func head(pairs ...string) string {
	s := newSection()
	for i := 0; i < len(pairs); i += 2 {
		s.put(pairs[i], pairs[i+1])
	}
	return string(s.frame())
}

// readAnswer reads an answer to its end or fault.
func readAnswer(r io.Reader, method string) (status int, fields tunnel.Fields, got []byte, err error) {
	c := content{frames: frames{r: r}}
	if status, fields, err = c.readAnswer(); err != nil {
		return 0, nil, nil, err
	}
	if c.length, err = contentLength(method, status, fields); err != nil {
		return 0, nil, nil, err
	}
	got, err = readContent(&c)
	return status, fields, got, err
}

// readRequest reads a request likewise, as an agent does.
func readRequest(r io.Reader) (h tunnel.Header, got []byte, err error) {
	c := content{frames: frames{r: r, agent: true}, length: -1}
	if h, err = c.readRequest(); err != nil {
		return h, nil, err
	}
	got, err = readContent(&c)
	return h, got, err
}

func readContent(c *content) (got []byte, err error) {
	b := make([]byte, 100)
	for {
		n, err := c.read(b)
		got = append(got, b[:n]...)
		if err != nil {
			return got, err
		}
	}
}

func TestAnswer(t *testing.T) {
	ok := head(":status", "200")
	long := strings.Repeat("x", 300)
	for name, row := range map[string]struct {
		method, sent string
		status       int
		content      string
		err          error
	}{
		"empty":               {"", ok, 200, "", io.EOF},
		"content":             {"", ok + "\x00\x03abc" + "\x00\x00" + "\x00\x41\x2c" + long, 200, "abc" + long, io.EOF},
		"unknown frames":      {"", "\x21\x01x" + ok + "\x40\x40\x02zz" + "\x00\x01a" + "\x80\x00\x12\x34\x40\x01z" + "\x00\x01b" + "\x21\x00", 200, "ab", io.EOF},
		"long numbers":        {"", ok + "\xc0\x00\x00\x00\x00\x00\x00\x00" + "\xc0\x00\x00\x00\x00\x00\x00\x01a", 200, "a", io.EOF},
		"interim":             {"", head(":status", "103", "link", "x") + ok + "\x00\x01a", 200, "a", io.EOF},
		"trailers":            {"", ok + "\x00\x01a" + head("x", "y") + "\x21\x00", 200, "a", io.EOF},
		"broken":              {"", ok + "\x00\x01a" + broken, 200, "a", tunnel.ErrBroken},
		"length":              {"GET", head(":status", "200", "content-length", "2") + "\x00\x01a\x00\x01b", 200, "ab", io.EOF},
		"length of a CONNECT": {"CONNECT", head(":status", "200", "content-length", "2") + "\x00\x01a", 200, "a", io.EOF},
		"length of a refusal": {"CONNECT", head(":status", "402", "content-length", "2") + "\x00\x02ab", 402, "ab", io.EOF},
		"length of a HEAD":    {"HEAD", head(":status", "200", "content-length", "2"), 200, "", io.EOF},
	} {
		method := row.method
		if method == "" {
			method = http.MethodConnect
		}
		status, _, content, err := readAnswer(strings.NewReader(row.sent), method)
		if status != row.status || string(content) != row.content || err != row.err {
			t.Errorf("%s: got %d, %q, %v", name, status, content, err)
		}
	}
	if _, fields, _, _ := readAnswer(strings.NewReader(head(":status", "407", "proxy-authenticate", "a", "proxy-authenticate", "b")), "CONNECT"); len(fields["proxy-authenticate"]) != 2 {
		t.Errorf("fields %v", fields)
	}
}

func TestAnswerFaults(t *testing.T) {
	ok := head(":status", "200")
	for name, row := range map[string]struct {
		sent    string
		code    errCode
		message bool
	}{
		"nothing":                {"", codeMessage, true},
		"content first":          {"\x00\x01a" + ok, codeFrameUnexpected, false},
		"cut in a type":          {"\x40", codeFrame, false},
		"cut in a long type":     {ok + "\xc0\x00\x00", codeFrame, false},
		"cut in a length":        {ok + "\x00\x80\x01", codeFrame, false},
		"cut in a head":          {ok[:len(ok)-1], codeFrame, false},
		"cut in content":         {ok + "\x00\x02a", codeFrame, false},
		"cut in an unknown":      {ok + "\x21\x02a", codeFrame, false},
		"cut before the content": {ok + "\x00\x02", codeFrame, false},
		"head of a gigabyte":     {"\x01\xbf\xff\xff\xff", codeExcessiveLoad, true},
		"trailers of a gigabyte": {ok + "\x01\xbf\xff\xff\xff", codeExcessiveLoad, true},
		"unknown of 2^62-1":      {ok + "\x21\xff\xff\xff\xff\xff\xff\xff\xff", codeFrame, false},
		"a request's, often":     {"\x01\x41\x2c\x00\x00" + strings.Repeat("\xd1", 298), codeMessage, true},
		"a field a thousand times": {"\x01\x43\xeb\x00\x00\xd9" + strings.Repeat("\xf5", 1000),
			codeExcessiveLoad, true},
		"dynamic table":      {"\x01\x03\x02\x00\x80", codeQPACKDecompression, false},
		"no such field":      {"\x01\x04\x00\x00\xff\x7f", codeQPACKDecompression, false},
		"empty section":      {"\x01\x00", codeQPACKDecompression, false},
		"no status":          {head("x", "y"), codeMessage, true},
		"status twice":       {head(":status", "200", ":status", "200"), codeMessage, true},
		"status behind":      {head("x", "y", ":status", "200"), codeMessage, true},
		"status of 101":      {head(":status", "101"), codeMessage, true},
		"status of 4 digits": {head(":status", "2000"), codeMessage, true},
		"status of letters":  {head(":status", "2x0"), codeMessage, true},
		"status below":       {head(":status", "2-0"), codeMessage, true},
		"a request's":        {head(":status", "200", ":path", "/"), codeMessage, true},
		"capital":            {head(":status", "200", "Via", "x"), codeMessage, true},
		"value in two lines": {head(":status", "200", "via", "x\r\ny"), codeMessage, true},
		"connection":         {head(":status", "200", "connection", "close"), codeMessage, true},
		"interim for ever":   {strings.Repeat(head(":status", "103"), 20), codeExcessiveLoad, true},
		"status in trailers": {ok + ok, codeMessage, true},
		"trailers twice":     {ok + broken + broken, codeFrameUnexpected, false},
		"content at the end": {ok + broken + "\x00\x01a", codeFrameUnexpected, false},
		"settings":           {ok + "\x04\x00", codeFrameUnexpected, false},
		"GOAWAY":             {"\x07\x01\x00", codeFrameUnexpected, false},
		"HTTP/2's":           {ok + "\x09\x00", codeFrameUnexpected, false},
		"push":               {ok + "\x05\x01\x00", codeID, false},
		"too much":           {head(":status", "200", "content-length", "1") + "\x00\x02ab", codeMessage, true},
		"too little":         {head(":status", "200", "content-length", "3") + "\x00\x02ab", codeMessage, true},
		"two lengths":        {head(":status", "200", "content-length", "1", "content-length", "2"), codeMessage, true},
		"negative length":    {head(":status", "200", "content-length", "-1"), codeMessage, true},
	} {
		_, _, _, err := readAnswer(strings.NewReader(row.sent), http.MethodGet)
		if f, ok := errors.AsType[*fault](err); !ok || f.code != row.code || f.message != row.message {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRequest(t *testing.T) {
	tcp := []string{":method", "CONNECT", ":authority", "a.test:443"}
	udp := []string{":method", "CONNECT", ":protocol", "connect-udp", ":scheme", "https", ":authority", "agent", ":path", "/udp/a%3Ab/"}
	get := []string{":authority", "agent", ":path", "/a?b=c", ":scheme", "https", ":method", "GET"}
	for name, row := range map[string]struct {
		sent string
		want tunnel.Header
		got  string
		err  error
	}{
		"CONNECT": {head(tcp...) + "\x00\x03abc", tunnel.Header{Method: "CONNECT", Authority: "a.test:443"}, "abc", io.EOF},
		"CONNECT-UDP": {head(append(udp, "capsule-protocol", "?1")...), tunnel.Header{
			Method: "CONNECT", Protocol: "connect-udp", Authority: "agent", Path: "/udp/a%3Ab/", Fields: tunnel.Fields{"capsule-protocol": {"?1"}},
		}, "", io.EOF},
		"GET": {head(get...), tunnel.Header{Method: "GET", Authority: "agent", Path: "/a"}, "", io.EOF},
		"host": {head(append(get[2:], "host", "b")...), tunnel.Header{
			Method: "GET", Authority: "b", Path: "/a", Fields: tunnel.Fields{"host": {"b"}},
		}, "", io.EOF},
		"OPTIONS": {head(":method", "OPTIONS", ":scheme", "https", ":authority", "a", ":path", "*"),
			tunnel.Header{Method: "OPTIONS", Authority: "a", Path: "*"}, "", io.EOF},
		"unknown frames": {"\x21\x01x" + head(tcp...) + "\x40\x40\x02zz\x00\x01a\x21\x00\x00\x00\x00\x01b",
			tunnel.Header{Method: "CONNECT", Authority: "a.test:443"}, "ab", io.EOF},
		"credentials twice": {head(append(tcp, "proxy-authorization", "a", "proxy-authorization", "b", "te", "trailers")...), tunnel.Header{
			Method: "CONNECT", Authority: "a.test:443", Fields: tunnel.Fields{"proxy-authorization": {"a", "b"}, "te": {"trailers"}},
		}, "", io.EOF},
	} {
		if row.want.Fields == nil {
			row.want.Fields = tunnel.Fields{}
		}
		h, got, err := readRequest(strings.NewReader(row.sent))
		if d := cmp.Diff(row.want, h); d != "" || string(got) != row.got || err != row.err {
			t.Errorf("%s: %q, %v, %s", name, got, err, d)
		}
	}
}

func TestRequestFaults(t *testing.T) {
	ok := head(":method", "CONNECT", ":authority", "a:1")
	get := func(more ...string) string {
		return head(append([]string{":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/"}, more...)...)
	}
	for name, row := range map[string]struct {
		sent    string
		code    errCode
		message bool
	}{
		"nothing":                {"", codeRequestIncomplete, true},
		"only unknown frames":    {"\x21\x01x", codeRequestIncomplete, true},
		"content first":          {"\x00\x01a" + ok, codeFrameUnexpected, false},
		"half a head":            {ok[:len(ok)-1], codeFrame, false},
		"head of a gigabyte":     {"\x01\xbf\xff\xff\xff", codeExcessiveLoad, true},
		"a long field":           {get("a", strings.Repeat("0", 9000)), codeExcessiveLoad, true},
		"a field too often":      {"\x01\x43\xeb\x00\x00\xd9" + strings.Repeat("\xf5", 1000), codeMessage, true},
		"dynamic table":          {"\x01\x03\x02\x00\x80", codeQPACKDecompression, false},
		"empty section":          {"\x01\x00", codeQPACKDecompression, false},
		"empty head":             {"\x01\x02\x00\x00", codeMessage, true},
		"trailers":               {ok + "\x00\x01a" + head("a", "b"), codeFrameUnexpected, false},
		"settings":               {ok + "\x04\x00", codeFrameUnexpected, false},
		"GOAWAY first":           {"\x07\x01\x00", codeFrameUnexpected, false},
		"a limit of pushes":      {ok + "\x0d\x01\x00", codeFrameUnexpected, false},
		"HTTP/2's":               {ok + "\x08\x00", codeFrameUnexpected, false},
		"push":                   {ok + "\x05\x01\x00", codeFrameUnexpected, false},
		"cut content":            {ok + "\x00\x02a", codeFrame, false},
		"no method":              {head(":scheme", "https", ":authority", "a", ":path", "/"), codeMessage, true},
		"method of two words":    {head(":method", "A B", ":scheme", "https", ":authority", "a", ":path", "/"), codeMessage, true},
		"method twice":           {head(":method", "GET", ":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/"), codeMessage, true},
		"no scheme":              {head(":method", "GET", ":authority", "a", ":path", "/"), codeMessage, true},
		"no path":                {head(":method", "GET", ":scheme", "https", ":authority", "a"), codeMessage, true},
		"empty path":             {head(":method", "GET", ":scheme", "https", ":authority", "a", ":path", ""), codeMessage, true},
		"relative path":          {head(":method", "GET", ":scheme", "https", ":authority", "a", ":path", "x"), codeMessage, true},
		"asterisk of a GET":      {head(":method", "GET", ":scheme", "https", ":authority", "a", ":path", "*"), codeMessage, true},
		"path beyond ASCII":      {head(":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/ä"), codeMessage, true},
		"no authority":           {head(":method", "GET", ":scheme", "https", ":path", "/"), codeMessage, true},
		"CONNECT without":        {head(":method", "CONNECT"), codeMessage, true},
		"CONNECT by a host":      {head(":method", "CONNECT", "host", "a:1"), codeMessage, true},
		"CONNECT with a path":    {head(":method", "CONNECT", ":authority", "a:1", ":path", "/"), codeMessage, true},
		"CONNECT with a scheme":  {head(":method", "CONNECT", ":authority", "a:1", ":scheme", "https"), codeMessage, true},
		"CONNECT-UDP, no path":   {head(":method", "CONNECT", ":authority", "a", ":protocol", "connect-udp", ":scheme", "https"), codeMessage, true},
		"protocol of a GET":      {head(":protocol", "x", ":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/"), codeMessage, true},
		"protocol of two words":  {head(":protocol", "x y", ":method", "CONNECT", ":scheme", "https", ":authority", "a", ":path", "/"), codeMessage, true},
		"an answer's":            {head(":status", "200"), codeMessage, true},
		"unknown pseudo-header":  {head(":method", "CONNECT", ":authority", "a:1", ":x", "y"), codeMessage, true},
		"pseudo-header behind":   {head(":method", "CONNECT", "a", "b", ":authority", "a:1"), codeMessage, true},
		"authority in two lines": {head(":method", "CONNECT", ":authority", "a:1\r\nb"), codeMessage, true},
		"another host":           {get("host", "b"), codeMessage, true},
		"two hosts":              {get("host", "a", "host", "b"), codeMessage, true},
		"capital":                {get("Via", "x"), codeMessage, true},
		"value in two lines":     {get("via", "x\ny"), codeMessage, true},
		"connection":             {get("connection", "close"), codeMessage, true},
		"te":                     {get("te", "gzip"), codeMessage, true},
		"two lengths":            {get("content-length", "1", "content-length", "2"), codeMessage, true},
		"negative length":        {get("content-length", "-1"), codeMessage, true},
	} {
		_, _, err := readRequest(strings.NewReader(row.sent))
		if f, ok := errors.AsType[*fault](err); !ok || f.code != row.code || f.message != row.message {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAnswerReset leaves a transport's error as it is, also within a frame.
func TestAnswerReset(t *testing.T) {
	reset := errors.New("reset")
	sent := head(":status", "200") + "\x00\x41\x2c" + strings.Repeat("x", 300) + "\x80\x00\x12\x34\x40\x01z"
	for n := range sent {
		if _, _, _, err := readAnswer(io.MultiReader(strings.NewReader(sent[:n]), iotest.ErrReader(reset)), "CONNECT"); err != reset {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

// FuzzAnswer reads to the end or to a fault, no more content than was sent, and
// the same in pieces of one byte.
func FuzzAnswer(f *testing.F) {
	ok := head(":status", "200", "proxy-status", "x")
	for _, s := range []string{
		ok, ok + "\x00\x03abc\x00\x00\x00\x01d", head(":status", "103") + ok + "\x21\x02ab", ok + "\x00\x01a" + broken,
		head(":status", "402", "content-length", "2") + "\x00\x02ab", "\x40\x01\x80\x00\x00\x03\x00\x00\xd9", "\x01\xbf\xff\xff\xff", ok + "\x00\x02a",
	} {
		f.Add([]byte(s), s == ok)
	}
	f.Fuzz(func(t *testing.T, b []byte, get bool) {
		method := map[bool]string{true: http.MethodGet, false: http.MethodConnect}[get]
		status, _, content, err := readAnswer(bytes.NewReader(b), method)
		if _, ok := errors.AsType[*fault](err); !ok && err != io.EOF && err != tunnel.ErrBroken {
			t.Fatalf("ended by %v", err)
		}
		if len(content) > len(b) || status != 0 && (status < 200 || status > 599) {
			t.Fatalf("status %d, %d bytes of %d", status, len(content), len(b))
		}
		status1, _, content1, err1 := readAnswer(iotest.OneByteReader(bytes.NewReader(b)), method)
		if status != status1 || !bytes.Equal(content, content1) || err.Error() != err1.Error() {
			t.Fatalf("%d, %q, %v; in pieces %d, %q, %v", status, content, err, status1, content1, err1)
		}
	})
}

// FuzzRequest reads to the end or to a fault what an agent can work with, no
// more content than was sent, and the same in pieces of one byte.
func FuzzRequest(f *testing.F) {
	tcp := head(":method", "CONNECT", ":authority", "a:1", "te", "trailers")
	for _, s := range []string{
		tcp, tcp + "\x00\x03abc\x00\x00\x00\x01d", tcp + "\x21\x02ab" + broken, "\x01\xbf\xff\xff\xff", "\x01\x02\x00\x00",
		head(":method", "CONNECT", ":protocol", "connect-udp", ":scheme", "https", ":authority", "a", ":path", "/x/?y"),
		head(":method", "GET", ":scheme", "https", ":path", "/", "host", "a", "content-length", "2") + "\x00\x02ab",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, got, err := readRequest(bytes.NewReader(b))
		if _, ok := errors.AsType[*fault](err); !ok && err != io.EOF {
			t.Fatalf("ended by %v", err)
		}
		if len(got) > len(b) {
			t.Fatalf("%d bytes of %d", len(got), len(b))
		}
		if h.Method != "" && (h.Authority == "" || (h.Path == "") != (h.Method == tunnel.MethodConnect && h.Protocol == "")) {
			t.Fatalf("%+v", h)
		}
		h1, got1, err1 := readRequest(iotest.OneByteReader(bytes.NewReader(b)))
		if d := cmp.Diff(h, h1); d != "" || !bytes.Equal(got, got1) || err.Error() != err1.Error() {
			t.Fatalf("%q, %v; in pieces %q, %v; %s", got, err, got1, err1, d)
		}
	})
}
