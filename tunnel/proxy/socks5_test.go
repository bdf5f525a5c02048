package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"testing"
	"testing/iotest"
)

func TestReadGreeting(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want string
		err  error
	}{
		{"\x05\x01\x00", "\x00", nil},
		{"\x05\x02\x00\x02more", "\x00\x02", nil},
		{"\x05\x00", "", nil},
		{"\x04\x01\x00\x50", "", errNotSOCKS5},
		{"GET / HTTP/1.1\r\n", "", errNotSOCKS5},
		{"", "", io.EOF},
		{"\x05", "", io.EOF},
		{"\x05\x02\x00", "", io.ErrUnexpectedEOF},
	} {
		r := bytes.NewReader([]byte(tt.in))
		got, err := readGreeting(iotest.OneByteReader(r))
		if !errors.Is(err, tt.err) || err == nil && string(got) != tt.want {
			t.Errorf("%q: got %q, %v; want %q, %v", tt.in, got, err, tt.want, tt.err)
		}
	}
}

func TestChooseMethod(t *testing.T) {
	for _, tt := range []struct {
		offered  string
		password bool
		want     byte
	}{
		{"\x00", false, methodNone},
		{"\x02\x00", false, methodNone},
		{"\x02", false, methodPassword},
		{"\x01\x80", false, methodRefused},
		{"", false, methodRefused},
		{"\x00", true, methodRefused},
		{"\x00\x02", true, methodPassword},
		{"", true, methodRefused},
	} {
		if got := chooseMethod([]byte(tt.offered), tt.password); got != tt.want {
			t.Errorf("%x, password %v: got %d, want %d", tt.offered, tt.password, got, tt.want)
		}
	}
}

func TestReadPassword(t *testing.T) {
	user, password, err := readPassword(iotest.OneByteReader(bytes.NewReader([]byte("\x01\x01u\x02pw"))))
	if user != "u" || password != "pw" || err != nil {
		t.Errorf("got %q, %q, %v", user, password, err)
	}
	for _, in := range []string{"", "\x01", "\x05\x01u\x02pw", "\x01\x01u\x02p", "\x01\x02u"} {
		if _, _, err := readPassword(bytes.NewReader([]byte(in))); err == nil {
			t.Errorf("%q: no error", in)
		}
	}
}

func TestReadRequest(t *testing.T) {
	for _, tt := range []struct {
		in, rest string
		command  byte
		host     string
		port     uint16
		err      error
	}{
		{"\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50GET", "GET", 1, "192.0.2.1", 80, nil},
		{"\x05\x01\x00\x03\x0bexample.com\x01\xbb", "", 1, "example.com", 443, nil},
		{"\x05\x03\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x35", "", 3, "2001:db8::1", 53, nil},
		{"\x05\x01\x00\x03\x00\x00\x50", "", 1, "", 80, nil},
		{"\x05\x01\x00\x02\x00\x00\x50", "", 1, "", 0, errAddressType},
		{"\x04\x01\x00\x01\x00\x00\x50", "", 0, "", 0, errNotSOCKS5},
		{"\x05\x01\x00\x01\xc0\x00\x02", "", 1, "", 0, io.ErrUnexpectedEOF},
	} {
		r := bytes.NewReader([]byte(tt.in))
		command, address, err := readRequest(r)
		if !errors.Is(err, tt.err) || command != tt.command {
			t.Errorf("%q: got %d, %v; want %d, %v", tt.in, command, err, tt.command, tt.err)
		}
		if err != nil {
			continue
		}
		host, port := parseAddress(address)
		rest, _ := io.ReadAll(r)
		if host != tt.host || port != tt.port || string(rest) != tt.rest {
			t.Errorf("%q: got %q, %d, rest %q; want %q, %d, %q", tt.in, host, port, rest, tt.host, tt.port, tt.rest)
		}
	}
}

func TestAppendReply(t *testing.T) {
	for _, tt := range []struct {
		bound, want string
	}{
		{"192.0.2.1:80", "\x05\x00\x00\x01\xc0\x00\x02\x01\x00\x50"},
		{"[::ffff:192.0.2.1]:80", "\x05\x00\x00\x01\xc0\x00\x02\x01\x00\x50"},
		{"[2001:db8::1]:258", "\x05\x00\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x01\x02"},
	} {
		if got := appendReply(nil, replyOK, netip.MustParseAddrPort(tt.bound)); string(got) != tt.want {
			t.Errorf("%s: got %x, want %x", tt.bound, got, tt.want)
		}
	}
	if got := appendReply(nil, replyRefused, netip.AddrPort{}); string(got) != "\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00" {
		t.Errorf("zero address: got %x", got)
	}
}

func TestParseDatagram(t *testing.T) {
	for _, tt := range []struct {
		in, address, payload string
		err                  error
	}{
		{"\x00\x00\x00\x01\xc0\x00\x02\x01\x00\x35query", "\x01\xc0\x00\x02\x01\x00\x35", "query", nil},
		{"\x00\x00\x00\x03\x01a\x00\x35", "\x03\x01a\x00\x35", "", nil},
		{"\x00\x00\x01\x01\xc0\x00\x02\x01\x00\x35query", "", "", errFragment},
		{"\x00\x00\x80\x01\xc0\x00\x02\x01\x00\x35query", "", "", errFragment},
		{"\x00\x00\x00\x05\xc0\x00\x02\x01\x00\x35query", "", "", errAddressType},
		{"\x00\x00\x00\x01\xc0\x00\x02\x01\x00", "", "", errShort},
		{"\x00\x00\x00\x03\xffa\x00\x35", "", "", errShort},
		{"\x00\x00\x00\x01", "", "", errShort},
		{"", "", "", errShort},
	} {
		address, payload, err := parseDatagram([]byte(tt.in))
		if !errors.Is(err, tt.err) || string(address) != tt.address || string(payload) != tt.payload {
			t.Errorf("%q: got %q, %q, %v; want %q, %q, %v", tt.in, address, payload, err, tt.address, tt.payload, tt.err)
		}
	}
}

func FuzzSOCKS5Greeting(f *testing.F) {
	f.Add([]byte("\x05\x01\x00"))
	f.Add([]byte("\x05\x02\x00\x02\x01\x01u\x01p"))
	f.Add([]byte("\x05\xff"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		methods, err := readGreeting(r)
		if err != nil {
			return
		}
		if again := append([]byte{socksVersion, byte(len(methods))}, methods...); !bytes.HasPrefix(b, again) {
			t.Fatalf("%x read as %x", b, again)
		}
		if m := chooseMethod(methods, true); m == methodNone {
			t.Fatal("chose no password where one is wanted")
		}
		rest := b[len(b)-r.Len():]
		user, password, err := readPassword(r)
		if err != nil {
			return
		}
		again := append([]byte{passwordVersion, byte(len(user))}, user...)
		again = append(append(again, byte(len(password))), password...)
		if !bytes.HasPrefix(rest, again) {
			t.Fatalf("%x read as %x", rest, again)
		}
	})
}

func FuzzSOCKS5Request(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50"))
	f.Add([]byte("\x05\x01\x00\x03\x0bexample.com\x01\xbb"))
	f.Add([]byte("\x05\x03\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x35"))
	f.Add([]byte("\x05\x01\x00\x03\x09127.0.0.1\x00\x50"))
	f.Fuzz(func(t *testing.T, b []byte) {
		command, address, err := readRequest(bytes.NewReader(b))
		if err != nil {
			return
		}
		if again := append([]byte{socksVersion, command, b[2]}, address...); !bytes.HasPrefix(b, again) {
			t.Fatalf("%x read as %x", b, again)
		}
		checkTarget(t, address)
	})
}

func FuzzSOCKS5Datagram(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01\xc0\x00\x02\x01\x00\x35query"))
	f.Add([]byte("\x00\x00\x00\x03\x0bexample.com\x01\xbbquic"))
	f.Add([]byte("\x00\x00\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x35"))
	f.Add([]byte("\x00\x00\x01\x01\xc0\x00\x02\x01\x00\x35part"))
	f.Fuzz(func(t *testing.T, b []byte) {
		address, payload, err := parseDatagram(b)
		if err != nil {
			return
		}
		if again := append(append(b[:3:3], address...), payload...); !bytes.Equal(again, b) || b[2] != 0 {
			t.Fatalf("%x read as %x", b, again)
		}
		checkTarget(t, address)
	})
}

// checkTarget fails the test if an address becomes a target that must not be
// put into a request.
func checkTarget(t *testing.T, address []byte) {
	host, port := parseAddress(address)
	got, err := newTarget(host, port)
	if err != nil {
		return
	}
	if got.port == 0 || got.port != port || got.host == "" || len(got.host) > maxName || bytes.ContainsAny([]byte(got.host), " \r\n\x00/@%") {
		t.Fatalf("%x became %q", address, got)
	}
	if again, err := newTarget(got.host, port); err != nil || again != got {
		t.Fatalf("%q became %q, %v", got, again, err)
	}
}
