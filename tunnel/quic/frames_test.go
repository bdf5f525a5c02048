package quic

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/apernet/quic-go/http3"
	"github.com/apernet/quic-go/quicvarint"
	"github.com/quic-go/qpack"

	"github.com/depinsim/x402/tunnel"
)

// section returns a HEADERS frame of names and values.
func section(pairs ...string) string {
	var block bytes.Buffer
	enc := qpack.NewEncoder(&block)
	for i := 0; i < len(pairs); i += 2 {
		enc.WriteField(qpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return string(quicvarint.Append([]byte{frameHeaders}, uint64(block.Len()))) + block.String()
}

// readAnswer reads an answer to its end or fault.
func readAnswer(r io.Reader, method string) (status int, fields http.Header, content []byte, err error) {
	a := answer{frames: frames{r: r}, method: method}
	if status, fields, err = a.start(); err != nil {
		return 0, nil, nil, err
	}
	b := make([]byte, 100)
	for {
		n, err := a.read(b)
		content = append(content, b[:n]...)
		if err != nil {
			return status, fields, content, err
		}
	}
}

func TestAnswer(t *testing.T) {
	ok := section(":status", "200")
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
		"interim":             {"", section(":status", "103", "link", "x") + ok + "\x00\x01a", 200, "a", io.EOF},
		"trailers":            {"", ok + "\x00\x01a" + section("x", "y") + "\x21\x00", 200, "a", io.EOF},
		"broken":              {"", ok + "\x00\x01a" + broken, 200, "a", tunnel.ErrBroken},
		"length":              {"GET", section(":status", "200", "content-length", "2") + "\x00\x01a\x00\x01b", 200, "ab", io.EOF},
		"length of a CONNECT": {"CONNECT", section(":status", "200", "content-length", "2") + "\x00\x01a", 200, "a", io.EOF},
		"length of a refusal": {"CONNECT", section(":status", "402", "content-length", "2") + "\x00\x02ab", 402, "ab", io.EOF},
		"length of a HEAD":    {"HEAD", section(":status", "200", "content-length", "2"), 200, "", io.EOF},
	} {
		status, _, content, err := readAnswer(strings.NewReader(row.sent), cmp.Or(row.method, http.MethodConnect))
		if status != row.status || string(content) != row.content || err != row.err {
			t.Errorf("%s: got %d, %q, %v", name, status, content, err)
		}
	}
	if _, fields, _, _ := readAnswer(strings.NewReader(section(":status", "407", "proxy-authenticate", "a", "proxy-authenticate", "b")), "CONNECT"); len(fields["Proxy-Authenticate"]) != 2 {
		t.Errorf("fields %v", fields)
	}
}

func TestAnswerFaults(t *testing.T) {
	ok := section(":status", "200")
	for name, row := range map[string]struct {
		sent    string
		code    http3.ErrCode
		message bool
	}{
		"nothing":                {"", http3.ErrCodeMessageError, true},
		"content first":          {"\x00\x01a" + ok, http3.ErrCodeFrameUnexpected, false},
		"cut in a type":          {"\x40", http3.ErrCodeFrameError, false},
		"cut in a long type":     {ok + "\xc0\x00\x00", http3.ErrCodeFrameError, false},
		"cut in a length":        {ok + "\x00\x80\x01", http3.ErrCodeFrameError, false},
		"cut in a head":          {ok[:len(ok)-1], http3.ErrCodeFrameError, false},
		"cut in content":         {ok + "\x00\x02a", http3.ErrCodeFrameError, false},
		"cut in an unknown":      {ok + "\x21\x02a", http3.ErrCodeFrameError, false},
		"cut before the content": {ok + "\x00\x02", http3.ErrCodeFrameError, false},
		"head of a gigabyte":     {"\x01\xbf\xff\xff\xff", http3.ErrCodeExcessiveLoad, true},
		"trailers of a gigabyte": {ok + "\x01\xbf\xff\xff\xff", http3.ErrCodeExcessiveLoad, true},
		"unknown of 2^62-1":      {ok + "\x21\xff\xff\xff\xff\xff\xff\xff\xff", http3.ErrCodeFrameError, false},
		"a request's, often":     {"\x01\x41\x2c\x00\x00" + strings.Repeat("\xd1", 298), http3.ErrCodeMessageError, true},
		"a field a thousand times": {"\x01\x43\xeb\x00\x00\xd9" + strings.Repeat("\xf5", 1000),
			http3.ErrCodeExcessiveLoad, true},
		"dynamic table":      {"\x01\x03\x02\x00\x80", http3.ErrCodeQPACKDecompressionFailed, false},
		"no such field":      {"\x01\x04\x00\x00\xff\x7f", http3.ErrCodeQPACKDecompressionFailed, false},
		"empty section":      {"\x01\x00", http3.ErrCodeQPACKDecompressionFailed, false},
		"no status":          {section("x", "y"), http3.ErrCodeMessageError, true},
		"status twice":       {section(":status", "200", ":status", "200"), http3.ErrCodeMessageError, true},
		"status behind":      {section("x", "y", ":status", "200"), http3.ErrCodeMessageError, true},
		"status of 101":      {section(":status", "101"), http3.ErrCodeMessageError, true},
		"status of 4 digits": {section(":status", "2000"), http3.ErrCodeMessageError, true},
		"status of letters":  {section(":status", "2x0"), http3.ErrCodeMessageError, true},
		"status below":       {section(":status", "2-0"), http3.ErrCodeMessageError, true},
		"a request's":        {section(":status", "200", ":path", "/"), http3.ErrCodeMessageError, true},
		"capital":            {section(":status", "200", "Via", "x"), http3.ErrCodeMessageError, true},
		"value in two lines": {section(":status", "200", "via", "x\r\ny"), http3.ErrCodeMessageError, true},
		"connection":         {section(":status", "200", "connection", "close"), http3.ErrCodeMessageError, true},
		"interim for ever":   {strings.Repeat(section(":status", "103"), 20), http3.ErrCodeExcessiveLoad, true},
		"status in trailers": {ok + ok, http3.ErrCodeMessageError, true},
		"trailers twice":     {ok + broken + broken, http3.ErrCodeFrameUnexpected, false},
		"content at the end": {ok + broken + "\x00\x01a", http3.ErrCodeFrameUnexpected, false},
		"settings":           {ok + "\x04\x00", http3.ErrCodeFrameUnexpected, false},
		"GOAWAY":             {"\x07\x01\x00", http3.ErrCodeFrameUnexpected, false},
		"HTTP/2's":           {ok + "\x09\x00", http3.ErrCodeFrameUnexpected, false},
		"push":               {ok + "\x05\x01\x00", http3.ErrCodeIDError, false},
		"too much":           {section(":status", "200", "content-length", "1") + "\x00\x02ab", http3.ErrCodeMessageError, true},
		"too little":         {section(":status", "200", "content-length", "3") + "\x00\x02ab", http3.ErrCodeMessageError, true},
		"two lengths":        {section(":status", "200", "content-length", "1", "content-length", "2"), http3.ErrCodeMessageError, true},
		"negative length":    {section(":status", "200", "content-length", "-1"), http3.ErrCodeMessageError, true},
	} {
		_, _, _, err := readAnswer(strings.NewReader(row.sent), http.MethodGet)
		if f, ok := errors.AsType[*fault](err); !ok || f.code != row.code || f.message != row.message {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAnswerReset leaves a transport's error as it is, also within a frame.
func TestAnswerReset(t *testing.T) {
	reset := errors.New("reset")
	sent := section(":status", "200") + "\x00\x41\x2c" + strings.Repeat("x", 300) + "\x80\x00\x12\x34\x40\x01z"
	for n := range sent {
		if _, _, _, err := readAnswer(io.MultiReader(strings.NewReader(sent[:n]), iotest.ErrReader(reset)), "CONNECT"); err != reset {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

// FuzzAnswer reads to the end or to a fault, no more content than was sent, and
// the same in pieces of one byte.
func FuzzAnswer(f *testing.F) {
	ok := section(":status", "200", "proxy-status", "x")
	for _, s := range []string{
		ok, ok + "\x00\x03abc\x00\x00\x00\x01d", section(":status", "103") + ok + "\x21\x02ab", ok + "\x00\x01a" + broken,
		section(":status", "402", "content-length", "2") + "\x00\x02ab", "\x40\x01\x80\x00\x00\x03\x00\x00\xd9", "\x01\xbf\xff\xff\xff", ok + "\x00\x02a",
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
