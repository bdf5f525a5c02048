package packaging

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTree(t *testing.T) {
	tree := Tree{{Path: "usr/bin/b", Mode: 0o755, Data: []byte("12")}, {Path: "etc/a", Mode: 0o600, Data: []byte("3")}}
	if err := tree.Check(); err == nil {
		t.Error("a tree out of order passed")
	}
	tree.Sort()
	if err := tree.Check(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"etc", "usr", "usr/bin"}, tree.Dirs()); diff != "" {
		t.Error(diff)
	}
	if n := tree.Size(); n != 3 {
		t.Errorf("size %d", n)
	}
	if f := tree.Find("usr/bin/b"); f == nil || f.Mode != 0o755 {
		t.Errorf("found %v", f)
	}
	if f := tree.Find("usr/bin"); f != nil {
		t.Errorf("found %v", f)
	}
}

func TestTreeRefuses(t *testing.T) {
	for want, tree := range map[string]Tree{
		"not a path":         {{Path: "../etc/passwd"}},
		"below the root":     {{Path: "/etc/passwd"}},
		"not a path below":   {{Path: "etc/a\nb"}},
		"below the":          {{Path: "."}},
		"more than":          {{Path: "a", Mode: 0o755 | fs.ModeSetuid}},
		"twice":              {{Path: "a"}, {Path: "a"}},
		"directory of other": {{Path: "a"}, {Path: "a/b"}},
	} {
		if err := tree.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", tree, err, want)
		}
	}
}
