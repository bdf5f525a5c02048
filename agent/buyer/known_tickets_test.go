package buyer

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/tunnel/quic"
)

func TestKnownTickets(t *testing.T) {
	k := KnownTickets{Dir: filepath.Join(t.TempDir(), "tickets")}
	one, two := channel.ID{1}, channel.ID{2}
	take := func(id channel.ID, want string) {
		t.Helper()
		if b, err := k.Take(id); string(b) != want || err != nil {
			t.Errorf("took %q, want %q: %v", b, want, err)
		}
	}
	take(one, "") // nor is there a folder
	for _, text := range []string{"first", "second"} {
		if err := k.Put(one, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.Put(two, []byte("other")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{k.Dir: 0o700, k.path(one): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	take(one, "second")
	take(one, "")
	take(two, "other")
	if err := k.Put(one, bytes.Repeat([]byte{1}, quic.MaxTicket+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Take(one); err == nil {
		t.Error("one that is too long is taken")
	}
	take(one, "")
}
