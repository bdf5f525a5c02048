package seller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// names answers look-ups: each call takes the next answer, the last one stays.
type names struct {
	mu      sync.Mutex
	answers map[string][][]netip.Addr
	asked   []string
	err     error // for names that are not in answers; nil: not found
}

func (n *names) lookup(_ context.Context, network, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, network+" "+host)
	answers := n.answers[host]
	if len(answers) == 0 {
		if n.err != nil {
			return nil, n.err
		}
		return nil, &net.DNSError{Err: "no such host", Name: host, Server: "192.168.1.1:53", IsNotFound: true}
	}
	if len(answers) > 1 {
		n.answers[host] = answers[1:]
	}
	return answers[0], nil
}

func addrs(list ...string) []netip.Addr {
	var a []netip.Addr
	for _, s := range list {
		a = append(a, netip.MustParseAddr(s))
	}
	return a
}

// testPolicy has no own addresses and no names but ipv4only.arpa, which
// resolves to nat64.
func testPolicy(t testing.TB, cfg PolicyConfig, nat64 ...string) *Policy {
	t.Helper()
	if cfg.Lookup == nil {
		n := &names{}
		if nat64 != nil {
			n.answers = map[string][][]netip.Addr{nat64Name: {addrs(nat64...)}}
		}
		cfg.Lookup = n.lookup
	}
	p, err := NewPolicy(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.addresses = func() ([]netip.Prefix, error) { return nil, nil }
	return p
}

// dialled makes p record what it connects to, and fail by fails.
func dialled(p *Policy, fails func(to netip.AddrPort) error) *[]string {
	list := new([]string)
	p.connect = func(_ context.Context, network string, to netip.AddrPort) (net.Conn, error) {
		*list = append(*list, network+" "+to.String())
		if fails != nil {
			if err := fails(to); err != nil {
				return nil, err
			}
		}
		near, far := net.Pipe()
		far.Close()
		return near, nil
	}
	return list
}

func reasonOf(err error) string {
	if b, ok := errors.AsType[interface {
		error
		Blocked() string
	}](err); ok {
		return b.Blocked()
	}
	return ""
}

func TestPolicyDialsCheckedAddress(t *testing.T) {
	n := &names{answers: map[string][][]netip.Addr{
		"mixed.test.":   {addrs("192.168.1.1", "8.8.8.8", "fd00::1", "10.0.0.1", "8.8.4.4")},
		"private.test.": {addrs("192.168.1.1", "fd00::1")},
		"mapped.test.":  {addrs("::ffff:8.8.8.8")},
		"lan.test.":     {addrs("::ffff:127.0.0.1")},
	}}
	p := testPolicy(t, PolicyConfig{Lookup: n.lookup})
	for _, tt := range []struct{ host, want string }{
		{"mixed.test", "8.8.8.8:443"},
		{"MIXED.test.", "8.8.8.8:443"},
		{"mapped.test", "8.8.8.8:443"},
		{"private.test", ""},
		{"lan.test", ""},
		{"8.8.8.8", "8.8.8.8:443"},
		{"::ffff:8.8.8.8", "8.8.8.8:443"},
		{"127.0.0.1", ""},
		{"::ffff:127.0.0.1", ""},
		{"2a00:1450::1", "[2a00:1450::1]:443"},
		{"fe80::1%eth0", ""},
		{"::1", ""},
	} {
		for network, dial := range map[string]func(context.Context, string, uint16) (net.Conn, error){"tcp": p.DialTCP, "udp": p.DialUDP} {
			got := dialled(p, nil)
			conn, err := dial(t.Context(), tt.host, 443)
			if tt.want == "" {
				if reasonOf(err) == "" || len(*got) > 0 || strings.Contains(err.Error(), "192.168") {
					t.Errorf("%s %s: dialled %q, %v", network, tt.host, *got, err)
				}
				continue
			}
			if err != nil || len(*got) != 1 || (*got)[0] != network+" "+tt.want {
				t.Errorf("%s %s: dialled %q, %v; want %s", network, tt.host, *got, err, tt.want)
				continue
			}
			conn.Close()
		}
	}
	if slices.Contains(n.asked, "ip 8.8.8.8.") {
		t.Error("an address was looked up")
	}
}

// A name whose second answer is private, as in DNS rebinding, gains nothing:
// what is dialled is the very answer that was checked.
func TestPolicyRebinding(t *testing.T) {
	n := &names{answers: map[string][][]netip.Addr{"evil.test.": {addrs("8.8.8.8"), addrs("127.0.0.1")}}}
	p := testPolicy(t, PolicyConfig{Lookup: n.lookup})
	got := dialled(p, nil)
	if _, err := p.DialTCP(t.Context(), "evil.test", 80); err != nil {
		t.Fatal(err)
	}
	if len(n.asked) != 1 {
		t.Errorf("looked up %q", n.asked)
	}
	if _, err := p.DialTCP(t.Context(), "evil.test", 80); reasonOf(err) == "" {
		t.Errorf("got %v", err)
	}
	if want := []string{"tcp 8.8.8.8:80"}; !slices.Equal(*got, want) {
		t.Errorf("dialled %q, want %q", *got, want)
	}
}

func TestPolicyTriesAddressesInTurn(t *testing.T) {
	n := &names{answers: map[string][][]netip.Addr{
		"both.test.": {addrs("2a00::1", "2a00::2", "8.8.8.8", "8.8.4.4")},
		"many.test.": {addrs("8.8.8.1", "8.8.8.2", "8.8.8.3", "8.8.8.4", "8.8.8.5", "8.8.8.6", "8.8.8.7", "8.8.8.8")},
	}}
	p := testPolicy(t, PolicyConfig{Lookup: n.lookup})
	got := dialled(p, func(to netip.AddrPort) error {
		if to.Addr().Is6() {
			return syscall.ENETUNREACH
		}
		return nil
	})
	if _, err := p.DialTCP(t.Context(), "both.test", 80); err != nil || !slices.Equal(*got, []string{"tcp [2a00::1]:80", "tcp 8.8.8.8:80"}) {
		t.Errorf("dialled %q, %v", *got, err)
	}
	got = dialled(p, func(to netip.AddrPort) error { return syscall.ECONNREFUSED })
	if _, err := p.DialTCP(t.Context(), "many.test", 80); !errors.Is(err, syscall.ECONNREFUSED) || len(*got) != maxAddresses {
		t.Errorf("dialled %q, %v", *got, err)
	}
}

func TestPolicyTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &names{answers: map[string][][]netip.Addr{"slow.test.": {addrs("8.8.8.1", "8.8.8.2", "8.8.8.3", "8.8.8.4", "8.8.8.5")}}}
		p := testPolicy(t, PolicyConfig{Lookup: n.lookup})
		began := time.Now()
		var at []time.Duration
		p.connect = func(ctx context.Context, _ string, _ netip.AddrPort) (net.Conn, error) {
			at = append(at, time.Since(began))
			<-ctx.Done()
			return nil, ctx.Err()
		}
		_, err := p.DialTCP(t.Context(), "slow.test", 80)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 15*time.Second {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		if want := []time.Duration{0, 4 * time.Second, 8 * time.Second, 12 * time.Second}; !slices.Equal(at, want) {
			t.Errorf("tried at %v, want %v", at, want)
		}
	})
}

func TestPolicyNames(t *testing.T) {
	p := testPolicy(t, PolicyConfig{})
	_, err := p.DialTCP(t.Context(), "unknown.test", 80)
	dns, ok := errors.AsType[*net.DNSError](err)
	if !ok || !dns.IsNotFound || strings.Contains(err.Error(), "192.168.1.1") || !strings.Contains(err.Error(), "unknown.test") {
		t.Errorf("got %v", err)
	}
	p = testPolicy(t, PolicyConfig{Lookup: func(context.Context, string, string) ([]netip.Addr, error) { return nil, io.EOF }})
	if _, err := p.DialTCP(t.Context(), "unknown.test", 80); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
	p = testPolicy(t, PolicyConfig{Lookup: func(context.Context, string, string) ([]netip.Addr, error) { return nil, nil }})
	if _, err := p.DialTCP(t.Context(), "unknown.test", 80); err == nil {
		t.Error("an empty answer is an address")
	}
}

func TestPolicyHosts(t *testing.T) {
	label := strings.Repeat("a", 63)
	long := strings.Repeat(label+".", 3) + strings.Repeat("b", 61)
	for _, tt := range []struct{ host, want string }{ // want: address or name; "" is refused
		{"example.com", "example.com"},
		{"Example.COM.", "example.com"},
		{"a_b.example.com", "a_b.example.com"},
		{"localhost", "localhost"},
		{"xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"bücher.example", ""}, {"a\u00adb.example", ""},
		{"1.2.3.4", "1.2.3.4"}, {"1.2.3.4.", "1.2.3.4"},
		{"1.2.3.4.example", "1.2.3.4.example"},
		{"0x7f.example", "0x7f.example"},
		{long, long},
		{long + ".", long},
		{"１２７.0.0.1", ""}, // wide digits
		{"127。0。0。1", ""}, // ideographic dots
		{"::ffff:127.0.0.1", "::ffff:127.0.0.1"},
		{"", ""}, {".", ""}, {"a..b", ""}, {".a", ""}, {"a b", ""}, {"a\x00b", ""}, {"a\nb", ""}, {"a/b", ""}, {"a@b", ""},
		{"a%b", ""}, {"[::1]", ""}, {"::1]", ""}, {"1:2", ""}, {"\xff", ""}, {"ａ\u202eb.example", ""},
		{label + "a", ""}, {long + "c", ""},
		{"fe80::1%eth0", ""}, {"fe80::1%25eth0", ""}, {"8.8.8.8%eth0", ""},
		{"127.1", ""}, {"2130706433", ""}, {"0x7f000001", ""}, {"0x7f.0.0.1", ""}, {"0177.0.0.1", ""}, {"127.0.0.01", ""},
		{"127.0.0.0x1", ""}, {"1.2.3.4.5", ""}, {"1.2.3.", ""}, {"0x", ""}, {"0X7F.1", ""}, {"256.256.256.256", ""}, {"example.123", ""},
	} {
		addr, name, reason := parseHost(tt.host)
		got := name
		if addr.IsValid() {
			got = addr.String()
		}
		if got != tt.want || (reason == "") == (tt.want == "") {
			t.Errorf("%q: got %q, reason %q; want %q", tt.host, got, reason, tt.want)
		}
	}
}

func TestPolicyAllowAndDeny(t *testing.T) {
	p := testPolicy(t, PolicyConfig{
		AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.1.0.0/16")},
		DenyNetworks:  []netip.Prefix{netip.MustParsePrefix("10.1.2.0/24"), netip.MustParsePrefix("9.9.9.0/24"), netip.MustParsePrefix("2620:fe::/48")},
	})
	p.addresses = func() ([]netip.Prefix, error) { return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, nil }
	for host, open := range map[string]bool{
		"127.0.0.1": true, "localhost": true, "a.localhost": true, "notlocalhost": false, "::ffff:127.0.0.1": true, "10.1.3.4": true,
		"10.1.2.3": false, "10.2.0.1": false, "9.9.9.9": false, "2620:fe::fe": false, "::1": false, "192.168.1.1": false,
		"64:ff9b::7f00:1": false, "2002:7f00:1::1": false, "2002:909:909::1": false, "64:ff9b::909:909": false,
	} {
		dialled(p, nil)
		if _, err := p.DialTCP(t.Context(), host, 80); (err == nil) != open {
			t.Errorf("%s: %v, want open %v", host, err, open)
		}
	}
	if _, err := p.DialTCP(t.Context(), "127.0.0.1", 25); reasonOf(err) == "" {
		t.Error("port 25 of an allowed network is open")
	}
}

func TestPolicyPorts(t *testing.T) {
	web := []PortRange{{80, 80}, {443, 443}, {8000, 8999}}
	all := []PortRange{{1, 65535}}
	for _, tt := range []struct {
		name     string
		cfg      PolicyConfig
		tcp, udp map[uint16]bool
	}{
		{"default", PolicyConfig{},
			map[uint16]bool{0: false, 1: true, 22: true, 25: false, 80: true, 443: true, 445: false, 465: false, 587: false, 993: true, 65535: true},
			map[uint16]bool{0: false, 19: false, 25: true, 53: true, 123: true, 443: true, 1900: false, 5351: false, 11211: false, 51820: true}},
		{"only web", PolicyConfig{AllowTCP: web, AllowUDP: web[1:2]},
			map[uint16]bool{22: false, 80: true, 443: true, 7999: false, 8000: true, 8999: true, 9000: false},
			map[uint16]bool{53: false, 443: true}},
		{"all", PolicyConfig{AllowTCP: all, AllowUDP: all},
			map[uint16]bool{0: false, 25: false, 445: true, 587: true},
			map[uint16]bool{0: false, 1900: true}},
		{"none", PolicyConfig{AllowTCP: []PortRange{}, AllowUDP: []PortRange{}},
			map[uint16]bool{80: false}, map[uint16]bool{53: false}},
		{"all but some", PolicyConfig{DenyTCP: []PortRange{{22, 22}}, DenyUDP: []PortRange{{50000, 60000}}},
			map[uint16]bool{22: false, 23: false, 80: true}, map[uint16]bool{53: true, 55555: false}},
	} {
		p := testPolicy(t, tt.cfg)
		dialled(p, nil)
		for port, open := range tt.tcp {
			if _, err := p.DialTCP(t.Context(), "8.8.8.8", port); (err == nil) != open || !open && reasonOf(err) == "" {
				t.Errorf("%s: tcp %d: %v, want open %v", tt.name, port, err, open)
			}
		}
		for port, open := range tt.udp {
			if _, err := p.DialUDP(t.Context(), "8.8.8.8", port); (err == nil) != open || !open && reasonOf(err) == "" {
				t.Errorf("%s: udp %d: %v, want open %v", tt.name, port, err, open)
			}
		}
	}
}

func TestPortRangeText(t *testing.T) {
	for in, want := range map[string]string{"443": "443", "8000-8999": "8000-8999", "1-65535": "1-65535", "7-7": "7"} {
		var r PortRange
		if err := r.UnmarshalText([]byte(in)); err != nil {
			t.Errorf("%q: %v", in, err)
		}
		if got, err := r.MarshalText(); string(got) != want || err != nil {
			t.Errorf("%q: got %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "0", "-", "80-", "-80", "80-79", "65536", "http", "80-90-100", " 80", "+80"} {
		if err := new(PortRange).UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q: no error", in)
		}
	}
}

// Own addresses are read again, so that one which the carrier has just given
// out, or taken away, is known.
func TestPolicyOwnAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPolicy(t, PolicyConfig{})
		var own []netip.Prefix
		p.addresses = func() ([]netip.Prefix, error) { return own, nil }
		dialled(p, nil)
		open := func(host string) bool {
			_, err := p.DialTCP(t.Context(), host, 80)
			return err == nil
		}
		if !open("198.60.1.7") || !open("2a00:1::99") {
			t.Error("refused without a reason")
		}
		own = []netip.Prefix{netip.MustParsePrefix("198.60.1.0/24"), netip.MustParsePrefix("2a00:1::/64")}
		time.Sleep(ownAge)
		for _, host := range []string{"198.60.1.7", "198.60.1.200", "2a00:1::99", "2002:c63c:107::1", "64:ff9b::c63c:107"} {
			if open(host) {
				t.Errorf("own address %s is open", host)
			}
		}
		own = nil
		time.Sleep(ownAge)
		if !open("198.60.1.7") {
			t.Error("an address of the past is refused")
		}
		p.addresses = func() ([]netip.Prefix, error) { return nil, io.EOF }
		time.Sleep(ownAge)
		if open("8.8.8.8") {
			t.Error("open without knowing the own addresses")
		}
	})
}

// IPv6 is closed until the NAT64 prefixes are known, and what is known stays.
func TestPolicyLearnsNAT64(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &names{err: fmt.Errorf("server failure")}
		p := testPolicy(t, PolicyConfig{Lookup: n.lookup})
		own := []netip.Prefix{netip.MustParsePrefix("198.60.1.7/32")}
		p.addresses = func() ([]netip.Prefix, error) { return own, nil }
		dialled(p, nil)
		reason := func(host string) string {
			_, err := p.DialTCP(t.Context(), host, 80)
			return reasonOf(err)
		}
		if reason("8.8.8.8") != "" || len(n.asked) > 0 {
			t.Errorf("IPv4 asked for %q", n.asked)
		}
		if got := reason("2a00:64::808:808"); !strings.Contains(got, "ipv4only.arpa") {
			t.Errorf("unknown prefixes: %q", got)
		}
		reason("2a00:64::808:808")
		if want := []string{"ip6 " + nat64Name}; !slices.Equal(n.asked, want) {
			t.Errorf("asked %q, want %q", n.asked, want)
		}

		n.err = nil
		n.answers = map[string][][]netip.Addr{nat64Name: {addrs("2a00:64::c000:aa"), addrs("2a00:65::c000:aa")}}
		time.Sleep(nat64Retry)
		if reason("2a00:64::808:808") != "" || reason("2a00:64::a00:1") == "" {
			t.Error("the prefix was not learned")
		}
		time.Sleep(nat64Age)
		if reason("2a00:64::a00:1") != "" || reason("2a00:65::a00:1") == "" {
			t.Error("the prefix was not learned again")
		}
		n.answers, n.err = nil, io.EOF
		time.Sleep(nat64Age)
		if reason("2a00:65::a00:1") == "" {
			t.Error("a failure made the prefix forgotten")
		}
		n.err = nil // not found: there is no NAT64
		own = nil   // in another network
		time.Sleep(ownAge)
		if got := reason("2a00:65::a00:1"); got != "" {
			t.Errorf("the prefix of another network still counts: %s", got)
		}
	})
}

func TestPolicyConfigErrors(t *testing.T) {
	for name, cfg := range map[string]PolicyConfig{
		"timeout":   {DialTimeout: -1},
		"prefix":    {AllowNetworks: []netip.Prefix{{}}},
		"mapped":    {DenyNetworks: []netip.Prefix{netip.MustParsePrefix("::ffff:0:0/96")}},
		"interface": {Interface: "a-name-that-is-too-long"},
	} {
		if _, err := NewPolicy(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// The real sockets, on loopback.
func TestPolicyRealSockets(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := ln.Addr().(*net.TCPAddr).AddrPort().Port()
	for _, iface := range []string{"", "lo"} {
		p, err := NewPolicy(PolicyConfig{AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Interface: iface})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := p.DialTCP(t.Context(), "localhost", port)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := conn.(*net.TCPConn); !ok {
			t.Errorf("got a %T", conn)
		}
		conn.Close()
		if conn, err = p.DialUDP(t.Context(), "127.0.0.1", port); err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	p, err := NewPolicy(PolicyConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.DialTCP(t.Context(), "127.0.0.1", port); reasonOf(err) == "" {
		t.Errorf("got %v", err)
	}
	p, err = NewPolicy(PolicyConfig{AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Interface: "none0"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.DialTCP(t.Context(), "127.0.0.1", port); !errors.Is(err, syscall.ENODEV) {
		t.Errorf("an interface that is not there: %v", err)
	}
}

func FuzzHost(f *testing.F) {
	for _, host := range []string{"example.com", "bücher.example", "127.0.0.1", "0x7f.1", "fe80::1%eth0", "１２７.0.0.1", "a..b", "::ffff:10.0.0.1", "64:ff9b::7f00:1", ""} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		addr, name, reason := parseHost(host)
		set := 0
		for _, is := range []bool{addr.IsValid(), name != "", reason != ""} {
			if is {
				set++
			}
		}
		if set != 1 {
			t.Fatalf("%q: %v, %q, %q", host, addr, name, reason)
		}
		switch {
		case addr.IsValid() && addr.Zone() != "":
			t.Fatalf("%q: zone %q", host, addr.Zone())
		case name != "":
			if _, err := netip.ParseAddr(name); err == nil || len(name) > maxHostName || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" {
				t.Fatalf("%q became %q", host, name)
			}
			if _, again, _ := parseHost(name); again != name {
				t.Fatalf("%q became %q became %q", host, name, again)
			}
		}
	})
}
