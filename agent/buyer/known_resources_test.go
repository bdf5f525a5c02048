package buyer

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/spend"
)

func TestKnownResources(t *testing.T) {
	k := KnownResources{Dir: filepath.Join(t.TempDir(), "resources")}
	id, r := channel.ID{1}, Resource{Method: "POST", URL: "https://shop.test/a?b=c", Facilitator: "https://f.test"}
	if _, err := k.Load(id); !errors.Is(err, ErrNoOffer) {
		t.Errorf("one that is not there: %v", err)
	}
	if err := k.Save(id, r); err != nil {
		t.Fatal(err)
	}
	if got, err := k.Load(id); err != nil || got != r {
		t.Errorf("got %+v, %v", got, err)
	}
	r.URL = "https://shop.test/d"
	if err := k.Save(id, r); err != nil {
		t.Fatal(err)
	}
	if got, err := k.Load(id); err != nil || got != r {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := os.WriteFile(k.path(id), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Load(id); err == nil || errors.Is(err, ErrNoOffer) {
		t.Errorf("a broken file: %v", err)
	}
}

// TestLeft: what was signed by HTTP is signed away, as in a tunnel; what was paid
// for a token is so once it is claimed.
func TestLeft(t *testing.T) {
	for _, tt := range []struct {
		salt channel.Hash
		want channel.Amount
	}{{channel.Hash{}, 600}, {spend.Salt(), 600}, {channel.Hash{1}, 900}} {
		h := Holding{State: channel.State{Config: channel.Config{Salt: tt.salt}, Balance: 1_000, Claimed: 100, Max: 400}}
		if got := h.Left(); got != tt.want {
			t.Errorf("salt %.6s: %d are left, want %d", tt.salt, got, tt.want)
		}
	}
}
