package tunnel

import (
	"net"
	"strconv"
	"strings"
	"testing"
)

var targets = []struct {
	host string
	port string
	ok   bool
}{
	{"example.com", "443", true},
	{"EXAMPLE.com.", "1", true},
	{"_dmarc.example.com", "65535", true},
	{"192.0.2.1", "80", true},
	{"2001:db8::1", "80", true},
	{"::ffff:192.0.2.1", "80", true},
	{"xn--bcher-kva.example", "80", true},
	{strings.Repeat("a", 253), "80", true},
	{"", "80", false},
	{strings.Repeat("a", 254), "80", false},
	{"fe80::1%eth0", "80", false},
	{"1:2", "80", false},
	{"a b", "80", false},
	{"a/b", "80", false},
	{"a\x00", "80", false},
	{"user@host", "80", false},
	{"bücher.example", "80", false},
	{"a%20b", "80", false},
	{"example.com", "", false},
	{"example.com", "0", false},
	{"example.com", "080", false},
	{"example.com", "65536", false},
	{"example.com", "+80", false},
	{"example.com", "http", false},
}

func TestTargets(t *testing.T) {
	for _, row := range targets {
		host, port, err := parseAuthority(net.JoinHostPort(row.host, row.port))
		if (err == nil) != row.ok {
			t.Errorf("%q %q: %v", row.host, row.port, err)
		}
		if err != nil {
			continue
		}
		if host != row.host || strconv.Itoa(int(port)) != row.port {
			t.Errorf("%q %q: %q %d", row.host, row.port, host, port)
		}
		host, port, err = parseUDPTarget(udpTarget(row.host, port))
		if host != row.host || strconv.Itoa(int(port)) != row.port || err != nil {
			t.Errorf("over UDP %q %q: %q %d %v", row.host, row.port, host, port, err)
		}
	}
}

// TestUDPTarget has the addresses of the examples in RFC 9298 §3.
func TestUDPTarget(t *testing.T) {
	for path, want := range map[string]string{
		"/.well-known/masque/udp/192.0.2.6/443/":          "192.0.2.6:443",
		"/.well-known/masque/udp/2001%3Adb8%3A%3A42/443/": "[2001:db8::42]:443",
		"/.well-known/masque/udp/example.com/53":          "example.com:53",
		"/.well-known/masque/udp/example.com/":            "",
		"/.well-known/masque/udp//53/":                    "",
		"/.well-known/masque/udp/a%2Fb/53/":               "",
		"/.well-known/masque/udp/a%zz/53/":                "",
		"/.well-known/masque/udp/a/53/x/":                 "",
		"/elsewhere/a/53/":                                "",
		"":                                                "",
	} {
		host, port, err := parseUDPTarget(path)
		got := ""
		if err == nil {
			got = net.JoinHostPort(host, strconv.Itoa(int(port)))
		}
		if got != want {
			t.Errorf("%q: %q %v, want %q", path, got, err, want)
		}
	}
}

func FuzzAuthority(f *testing.F) {
	for _, row := range targets {
		f.Add(net.JoinHostPort(row.host, row.port))
	}
	f.Add("[::1]")
	f.Add("[::1]:80:80")
	f.Fuzz(func(t *testing.T, s string) {
		host, port, err := parseAuthority(s)
		if err != nil {
			return
		}
		checkParsed(t, host, port)
		again, p, err := parseAuthority(net.JoinHostPort(host, strconv.Itoa(int(port))))
		if again != host || p != port || err != nil {
			t.Errorf("%q: %q %d, then %q %d %v", s, host, port, again, p, err)
		}
	})
}

func FuzzUDPTarget(f *testing.F) {
	for _, row := range targets {
		f.Add("/.well-known/masque/udp/" + row.host + "/" + row.port + "/")
	}
	f.Add("/.well-known/masque/udp/2001%3Adb8%3A%3A42/443/")
	f.Fuzz(func(t *testing.T, s string) {
		host, port, err := parseUDPTarget(s)
		if err != nil {
			return
		}
		checkParsed(t, host, port)
		again, p, err := parseUDPTarget(udpTarget(host, port))
		if again != host || p != port || err != nil {
			t.Errorf("%q: %q %d, then %q %d %v", s, host, port, again, p, err)
		}
	})
}

func checkParsed(t *testing.T, host string, port uint16) {
	if host == "" || len(host) > maxHost || port == 0 {
		t.Errorf("%q %d", host, port)
	}
	for _, c := range []byte(host) {
		if c <= ' ' || c >= 0x7f || strings.ContainsRune(`/%@[]"\`, rune(c)) {
			t.Errorf("%q has a %q", host, c)
		}
	}
}
