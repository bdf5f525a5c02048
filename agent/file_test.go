package agent

import (
	"os"
	"path/filepath"
	"testing"
)

// TestReplaceFile: the file is whole with its mode, or as it was, and nothing
// is left beside it.
func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, text := range []string{"first", "second"} {
		if err := ReplaceFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil || string(b) != text {
			t.Errorf("%q, %v; want %q", b, err, text)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	full := filepath.Join(dir, "full") // a folder that is not empty takes no other name
	if err := os.MkdirAll(filepath.Join(full, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, write := range map[string]func(string) error{
		"replace": func(p string) error { return ReplaceFile(p, nil, 0o600) },
		"ready":   func(p string) error { return WriteReady(p, nil) },
	} {
		if write(full) == nil || write(filepath.Join(path, "below")) == nil {
			t.Errorf("%s: written where nothing can be", name)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestReady(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ready")
	if err := RemoveReady(path); err != nil {
		t.Errorf("remove what is not there: %v", err)
	}
	if err := WriteReady(path, []byte("text")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "text" {
		t.Errorf("%q, %v", b, err)
	}
	if err := RemoveReady(path); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("still there: %v", err)
	}
}
