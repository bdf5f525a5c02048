// Package packaging holds what installable packages have in common: the files
// that they put on a device. The folders below it are the formats, and what is
// in the packages of each system.
package packaging

import (
	"cmp"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// A File is a regular file of root's.
type File struct {
	Path string      // relative to the root, with slashes: usr/bin/x402-agent
	Mode fs.FileMode // its permissions
	Data []byte
}

// A Tree is the files of a package, each once, in the order of their paths.
type Tree []File

// Sort puts the files in order.
func (t Tree) Sort() { slices.SortFunc(t, func(a, b File) int { return cmp.Compare(a.Path, b.Path) }) }

// Check says what is wrong with a tree: paths that lead elsewhere or that cannot
// be files together, modes that are more than permissions, and the order.
func (t Tree) Check() error {
	dirs := t.Dirs()
	for i, f := range t {
		switch {
		case !fs.ValidPath(f.Path) || f.Path == "." || strings.ContainsFunc(f.Path, isControl):
			return fmt.Errorf("file %.80q: not a path below the root", f.Path)
		case f.Mode&^fs.ModePerm != 0:
			return fmt.Errorf("file %s: mode %v is more than permissions", f.Path, f.Mode)
		case i > 0 && t[i-1].Path >= f.Path:
			return fmt.Errorf("file %s: twice, or not in order", f.Path)
		case slices.Contains(dirs, f.Path):
			return fmt.Errorf("file %s: is a directory of others", f.Path)
		}
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// Dirs are the directories that the files are in, without the root, in order.
func (t Tree) Dirs() []string {
	var dirs []string
	for _, f := range t {
		for dir := path.Dir(f.Path); dir != "." && dir != "/"; dir = path.Dir(dir) {
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// Size is the sum of the files' sizes in bytes.
func (t Tree) Size() (n int64) {
	for _, f := range t {
		n += int64(len(f.Data))
	}
	return n
}

// Find returns the file with a path, nil if there is none.
func (t Tree) Find(path string) *File {
	for i := range t {
		if t[i].Path == path {
			return &t[i]
		}
	}
	return nil
}
