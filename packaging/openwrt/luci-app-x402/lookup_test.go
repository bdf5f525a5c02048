package luci_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// placeLookup puts a copy of the script x402-lookup into a folder, with a
// uclient-fetch beside it. The copy looks there first; the script itself takes
// programs from the system's folders only.
func placeLookup(t *testing.T, dir, fetch string) {
	t.Helper()
	b, err := os.ReadFile("root/usr/libexec/x402-lookup")
	if err != nil {
		t.Fatal(err)
	}
	here := strings.Replace(string(b), "\nPATH=", "\nPATH="+dir+":", 1)
	if here == string(b) {
		t.Fatal("x402-lookup sets no PATH")
	}
	for name, text := range map[string]string{"x402-lookup": here, "uclient-fetch": fetch} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLookup looks at what the script asks for, and at what it refuses.
func TestLookup(t *testing.T) {
	dir := t.TempDir()
	placeLookup(t, dir, `#!/bin/sh
case "$*" in
*long.example*) head -c 300000 /dev/zero | tr '\0' x ;;
*silent.example*) exit 1 ;;
*) echo "$*" ;;
esac
`)
	const relay, url, ends = "a relay's name is wanted", "a URL is wanted", "a character in it that does not belong"
	for _, test := range []struct{ what, where, asks, refuses string }{
		{what: "offers", where: "relay.example:4433#0123", asks: "-q -T 12 --no-check-certificate -O - https://relay.example:4433/v1/offers?limit=100"},
		{what: "offers", where: "[2001:db8::1]:4433", asks: "-q -T 12 -O - https://[2001:db8::1]:4433/v1/offers?limit=100"},
		{what: "supported", where: "https://f.example/x402/", asks: "-q -T 12 -O - https://f.example/x402/supported"},
		{what: "offers", where: "relay.example", refuses: relay},
		{what: "offers", where: "relay.example:", refuses: relay},
		{what: "offers", where: "-O:1", refuses: relay},
		{what: "offers", where: "relay.example:1/etc", refuses: relay},
		{what: "offers", where: "relay.example:1 --post-file=/etc/shadow", refuses: ends},
		{what: "offers", where: "$(id):1", refuses: ends},
		{what: "offers", where: "a`id`:1", refuses: ends},
		{what: "offers", where: "a;id:1", refuses: ends},
		{what: "offers", where: "a\nb:1", refuses: ends},
		{what: "offers", where: strings.Repeat("a", 300) + ":1", refuses: "longer than 300"},
		{what: "offers", where: "long.example:1", refuses: "the answer is too long"},
		{what: "offers", where: "silent.example:1", refuses: "no answer from https://silent.example:1/v1/offers"},
		{what: "supported", where: "file:///etc/passwd", refuses: url},
		{what: "supported", where: "https://", refuses: url},
		{what: "supported", where: "https://f.example/#x", refuses: "without #"},
		{what: "supported", where: "https://f.example/?x", refuses: ends},
		{what: "get", where: "https://f.example", refuses: "want supported URL, or offers RELAY"},
	} {
		cmd := exec.CommandContext(t.Context(), "sh", filepath.Join(dir, "x402-lookup"), test.what, test.where)
		var said strings.Builder
		cmd.Stderr = &said
		out, err := cmd.Output()
		if got := strings.TrimSpace(string(out)); got != test.asks {
			t.Errorf("%s %.60q asks %q, want %q", test.what, test.where, got, test.asks)
		}
		if (err != nil) != (test.refuses != "") || !strings.Contains(said.String(), test.refuses) {
			t.Errorf("%s %.60q: %v, %q, want %q", test.what, test.where, err, said.String(), test.refuses)
		}
	}
}
