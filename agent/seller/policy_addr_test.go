package seller

import (
	"net/netip"
	"slices"
	"testing"
)

// registry is every row of the IANA IPv4 and IPv6 Special-Purpose Address
// Registries, with the verdict on its first and its last address unless a
// longer row covers them.
var registry = []struct {
	prefix string
	open   bool
}{
	{"0.0.0.0/8", false},
	{"0.0.0.0/32", false},
	{"10.0.0.0/8", false},
	{"100.64.0.0/10", false},
	{"127.0.0.0/8", false},
	{"169.254.0.0/16", false},
	{"172.16.0.0/12", false},
	{"192.0.0.0/24", false},
	{"192.0.0.0/29", false},
	{"192.0.0.8/32", false},
	{"192.0.0.9/32", false},
	{"192.0.0.10/32", false},
	{"192.0.0.170/32", false},
	{"192.0.0.171/32", false},
	{"192.0.2.0/24", false},
	{"192.31.196.0/24", true},
	{"192.52.193.0/24", true},
	{"192.88.99.0/24", false},
	{"192.88.99.2/32", false},
	{"192.168.0.0/16", false},
	{"192.175.48.0/24", true},
	{"198.18.0.0/15", false},
	{"198.51.100.0/24", false},
	{"203.0.113.0/24", false},
	{"240.0.0.0/4", false},
	{"255.255.255.255/32", false},

	{"::1/128", false},
	{"::/128", false},
	{"::ffff:0:0/96", false}, // first and last: 0.0.0.0 and 255.255.255.255
	{"64:ff9b::/96", false},  // likewise
	{"64:ff9b:1::/48", false},
	{"100::/64", false},
	{"100:0:0:1::/64", false},
	{"2001::/23", false},
	{"2001::/32", false}, // servers 0.0.0.0 and 255.255.255.255
	{"2001:1::1/128", false},
	{"2001:1::2/128", false},
	{"2001:1::3/128", false},
	{"2001:2::/48", false},
	{"2001:3::/32", true},
	{"2001:4:112::/48", true},
	{"2001:10::/28", false},
	{"2001:20::/28", true},
	{"2001:30::/28", true},
	{"2001:db8::/32", false},
	{"2002::/16", false}, // 0.0.0.0 and 255.255.255.255
	{"2620:4f:8000::/48", true},
	{"3fff::/20", false},
	{"5f00::/16", false},
	{"fc00::/7", false},
	{"fe80::/10", false},

	// Not in the registries: what is not unicast, or was given back.
	{"224.0.0.0/4", false},
	{"ff00::/8", false},
	{"fec0::/10", false},
	{"4000::/3", false},
	{"e000::/4", false},
	{"::/96", false},
}

func TestPolicyRegistry(t *testing.T) {
	p := testPolicy(t, PolicyConfig{})
	for _, r := range registry {
		prefix := netip.MustParsePrefix(r.prefix)
		for _, addr := range []netip.Addr{prefix.Addr(), last(prefix)} {
			if reason := p.refuses(t.Context(), addr.Unmap()); (reason == "") != r.open {
				t.Errorf("%s of %s: %q, want open %v", addr, prefix, reason, r.open)
			}
		}
		inTable := slices.ContainsFunc(specials, func(s special) bool { return s.prefix == prefix })
		if !inTable && r.prefix != "4000::/3" && r.prefix != "e000::/4" && r.prefix != "::/96" {
			t.Errorf("%s is not in the table", prefix)
		}
	}
}

func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

func TestPolicySpecialsAreMasked(t *testing.T) {
	for _, s := range specials {
		if s.prefix != s.prefix.Masked() || s.name == "" || s.source == "" {
			t.Errorf("%+v", s)
		}
	}
}

func TestPolicyNeighboursOfSpecials(t *testing.T) {
	p := testPolicy(t, PolicyConfig{})
	for _, addr := range []string{
		"1.0.0.0", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
		"169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.0.3.0", "192.88.98.255",
		"192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255", "8.8.8.8",
		"2001:200::1", "2001:4860:4860::8888", "2003::1", "2600::1", "2a00:1450::1", "2c0f:ffff::1", "3ffe::1", "3fff:1000::1",
	} {
		if reason := p.refuses(t.Context(), netip.MustParseAddr(addr)); reason != "" {
			t.Errorf("%s: %s", addr, reason)
		}
	}
}

func TestPolicyEmbeddedIPv4(t *testing.T) {
	// Learned: a prefix of 96 bits, one of 64 inside a public block, and one
	// of the block for local use.
	p := testPolicy(t, PolicyConfig{DenyNetworks: []netip.Prefix{netip.MustParsePrefix("8.8.4.0/24")}},
		"2a00:64::c000:aa", "2a00:65:0:1:c0:0:ab00:0", "64:ff9b:1:fffe::c000:ab")
	for _, tt := range []struct {
		addr string
		open bool
	}{
		{"64:ff9b::808:808", true},
		{"64:ff9b::7f00:1", false},
		{"64:ff9b::c0a8:101", false},
		{"64:ff9b::6440:1", false}, // 100.64.0.1
		{"64:ff9b::808:404", false},
		{"64:ff9b:1::808:808", false}, // for local use, and nobody uses it so
		{"64:ff9b:1:fffe::808:808", true},
		{"64:ff9b:1:fffe::a00:1", false},
		{"2002:808:808::1", true},
		{"2002:c0a8:101::1", false},
		{"2002:7f00:1::", false},
		{"2002:808:404::1", false},
		// Teredo: server in bits 32 to 63, client inverted at the end.
		{"2001:0:808:808:8000:63bf:f7f7:f7f7", true},  // client 8.8.8.8
		{"2001:0:808:808:8000:63bf:3f57:fefe", false}, // client 192.168.1.1
		{"2001:0:a00:1:8000:63bf:f7f7:f7f7", false},   // server 10.0.0.1
		{"2a00:64::808:808", true},
		{"2a00:64::a9fe:a9fe", false},
		{"2a00:64::1:808:808", true}, // beside the prefix
		{"2a00:65:0:1:8:808:800:0", true},
		{"2a00:65:0:1:c0:a801:100:0", false},
	} {
		if reason := p.refuses(t.Context(), netip.MustParseAddr(tt.addr)); (reason == "") != tt.open {
			t.Errorf("%s: %q, want open %v", tt.addr, reason, tt.open)
		}
	}
}

// The examples of RFC 6052 section 2.4, which hold 192.0.2.33.
func TestPolicyNAT64Inner(t *testing.T) {
	want := netip.MustParseAddr("192.0.2.33")
	for addr, bits := range map[string]int{
		"2001:db8:c000:221::":          32,
		"2001:db8:1c0:2:21::":          40,
		"2001:db8:122:c000:2:2100::":   48,
		"2001:db8:122:3c0:0:221::":     56,
		"2001:db8:122:344:c0:2:2100::": 64,
		"2001:db8:122:344::192.0.2.33": 96,
	} {
		if got := nat64Inner(netip.MustParseAddr(addr).As16(), bits); got != want {
			t.Errorf("%s: got %v", addr, got)
		}
	}
}

func TestPolicyNAT64Prefixes(t *testing.T) {
	for _, tt := range []struct {
		addrs []string
		want  []string
	}{
		{nil, nil},
		{[]string{"192.0.0.170", "::ffff:192.0.0.171"}, nil},
		{[]string{"64:ff9b::c000:aa", "64:ff9b::c000:ab"}, []string{"64:ff9b::/96", "64:ff9b::/96"}},
		{[]string{"2a00:64:c000:aa::"}, []string{"2a00:64::/32"}},
		{[]string{"2a00:65:0:1:c0:0:ab00:0"}, []string{"2a00:65:0:1::/64"}},
		{[]string{"2a00:65:0:1:ffc0:0:ab00:0"}, nil}, // octet 8 is not zero
		{[]string{"2a00::1"}, nil},
	} {
		var addrs []netip.Addr
		for _, a := range tt.addrs {
			addrs = append(addrs, netip.MustParseAddr(a))
		}
		var got []string
		for _, prefix := range nat64Prefixes(addrs) {
			got = append(got, prefix.String())
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%v: got %v, want %v", tt.addrs, got, tt.want)
		}
	}
}

func TestPolicyOwnPrefix(t *testing.T) {
	for _, tt := range []struct {
		addr string
		bits int
		want string
	}{
		{"198.60.1.7", 24, "198.60.1.0/24"},
		{"198.60.1.7", 32, "198.60.1.7/32"},
		{"198.60.1.7", 0, "198.60.1.7/32"},
		{"2a00:1::7", 64, "2a00:1::/64"},
		{"2a00:1::7", 60, "2a00:1::/60"},
		{"2a00:1::7", 3, "2a00:1::7/128"},
	} {
		if got := ownPrefix(netip.MustParseAddr(tt.addr), tt.bits); got.String() != tt.want {
			t.Errorf("%s/%d: got %v, want %s", tt.addr, tt.bits, got, tt.want)
		}
	}
	own, err := interfacePrefixes()
	if err != nil || !contains(own, netip.MustParseAddr("127.0.0.1")) {
		t.Errorf("this machine's own networks: %v, %v", own, err)
	}
}

// Whatever passes is plain public unicast by an independent measure.
func FuzzPolicyAddress(f *testing.F) {
	for _, r := range registry {
		b := netip.MustParsePrefix(r.prefix).Addr().As16()
		f.Add(b[:])
	}
	p := testPolicy(f, PolicyConfig{}, "2a00:64::c000:aa")
	f.Fuzz(func(t *testing.T, b []byte) {
		addr, ok := netip.AddrFromSlice(b)
		if !ok || p.refuses(t.Context(), addr.Unmap()) != "" {
			return
		}
		addr = addr.Unmap()
		checkPublic(t, addr)
		b16 := addr.As16()
		switch {
		case addr.Is4():
		case b16[0] == 0x20 && b16[1] == 0x02:
			checkPublic(t, netip.AddrFrom4([4]byte(b16[2:6])))
		case netip.MustParsePrefix("64:ff9b::/96").Contains(addr), netip.MustParsePrefix("2a00:64::/96").Contains(addr):
			checkPublic(t, netip.AddrFrom4([4]byte(b16[12:])))
		case b16[0]&0xe0 != 0x20:
			t.Errorf("%v is not of 2000::/3", addr)
		}
	})
}

func checkPublic(t *testing.T, addr netip.Addr) {
	t.Helper()
	if !addr.IsGlobalUnicast() || addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast() ||
		netip.MustParsePrefix("100.64.0.0/10").Contains(addr) || netip.MustParsePrefix("0.0.0.0/8").Contains(addr) ||
		netip.MustParsePrefix("240.0.0.0/4").Contains(addr) {
		t.Errorf("%v passed", addr)
	}
}
