package seller

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
)

func receiptOf(session uint64) agent.Receipt {
	return agent.Receipt{
		Domain: channel.Domain{ChainID: 7}, Config: channel.Config{Payer: channel.Address{1}},
		Total: agent.Tally{Session: session, Down: 10}, Time: session,
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// sessionsIn are the sessions of the receipts in a folder.
func sessionsIn(t *testing.T, dir string) (sessions []uint64, damaged int) {
	t.Helper()
	all, damaged, err := Receipts(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		sessions = append(sessions, r.Total.Session)
	}
	return sessions, damaged
}

// TestReceiptBook keeps the newest, within its bounds, for ever.
func TestReceiptBook(t *testing.T) {
	dir := t.TempDir()
	b := &receiptBook{dir: dir}
	for n := range uint64(3*receiptsMost + 7) {
		if err := b.add(receiptOf(n + 1)); err != nil {
			t.Fatal(err)
		}
	}
	sessions, damaged := sessionsIn(t, dir)
	if n := len(sessions); n != receiptsMost+7 || damaged != 0 || sessions[0] != 2*receiptsMost+1 || sessions[n-1] != 3*receiptsMost+7 {
		t.Errorf("%d sessions from %d to %d, %d damaged", n, sessions[0], sessions[n-1], damaged)
	}
	size := int64(0)
	for _, e := range must(os.ReadDir(dir)) {
		info := must(e.Info())
		if size += info.Size(); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
	}
	if size > 256<<10 || 2*receiptsMost*receiptRecord > 256<<10 {
		t.Errorf("%d bytes", size)
	}
	if syncs, bytes := b.flash(); syncs < 3*receiptsMost+7 || syncs > 3*receiptsMost+20 || bytes != (3*receiptsMost+7)*receiptRecord {
		t.Errorf("%d syncs of %d bytes", syncs, bytes)
	}
}

// TestReceiptBookTorn cuts the file at every byte: what was whole is there, and the
// next receipt too.
func TestReceiptBookTorn(t *testing.T) {
	dir := t.TempDir()
	b, path := &receiptBook{dir: dir}, filepath.Join(dir, receiptsFile)
	for n := range uint64(2) {
		if err := b.add(receiptOf(n + 1)); err != nil {
			t.Fatal(err)
		}
	}
	whole := must(os.ReadFile(path))
	for cut := range len(whole) + 1 {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := b.add(receiptOf(9)); err != nil {
			t.Fatal(err)
		}
		sessions, damaged := sessionsIn(t, dir)
		if n := cut / receiptRecord; len(sessions) != n+1 || sessions[n] != 9 || damaged != 0 {
			t.Fatalf("cut at %d: sessions %v, %d damaged", cut, sessions, damaged)
		}
	}
}

// TestReceiptBookDamaged: one that is damaged costs no other.
func TestReceiptBookDamaged(t *testing.T) {
	dir := t.TempDir()
	b, path := &receiptBook{dir: dir}, filepath.Join(dir, receiptsFile)
	for n := range uint64(3) {
		if err := b.add(receiptOf(n + 1)); err != nil {
			t.Fatal(err)
		}
	}
	text := must(os.ReadFile(path))
	for at := range receiptRecord {
		text[receiptRecord+at] ^= 1
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		text[receiptRecord+at] ^= 1
		if sessions, damaged := sessionsIn(t, dir); len(sessions) != 2 || damaged != 1 {
			t.Fatalf("byte %d: sessions %v, %d damaged", at, sessions, damaged)
		}
	}
}

// TestReceiptsOfSIMs are those of all lines, or of one.
func TestReceiptsOfSIMs(t *testing.T) {
	root := t.TempDir()
	for i, dir := range []string{root, lineDir(root, "a"), lineDir(root, "b")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := (&receiptBook{dir: dir}).add(receiptOf(uint64(i + 1))); err != nil {
			t.Fatal(err)
		}
	}
	for sim, n := range map[string]int{"": 3, "a": 1} {
		if all, _, err := Receipts(root, sim); err != nil || len(all) != n {
			t.Errorf("%q: %d, %v", sim, len(all), err)
		}
	}
	if _, _, err := Receipts(root, "c"); err == nil {
		t.Error("there is no c")
	}
}
