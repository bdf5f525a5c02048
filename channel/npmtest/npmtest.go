// Package npmtest gives tests the programs of others that npm installs: packages
// with the checksums of all their files, as a package-lock.json names them.
package npmtest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Install returns a folder in which the packages are installed that package.json
// and package-lock.json in fsys name: once, in the user's cache. Where they cannot
// be had the test is skipped, except where everything must run.
func Install(t testing.TB, fsys fs.FS) string {
	t.Helper()
	folder, err := installed(fsys)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return folder
}

// installed returns a folder that is named by the lock: a run that comes while
// it is made installs for itself, and the first to finish wins.
func installed(fsys fs.FS) (string, error) {
	for _, name := range []string{"node", "npm"} {
		if _, err := exec.LookPath(name); err != nil {
			return "", fmt.Errorf("%s is not installed: on Debian, apt-get install nodejs npm", name)
		}
	}
	files := map[string][]byte{}
	sum := sha256.New()
	for _, name := range []string{"package.json", "package-lock.json"} {
		b, err := fs.ReadFile(fsys, name)
		if err != nil {
			return "", err
		}
		files[name] = b
		sum.Write(b)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	root := filepath.Join(cache, "x402-npmtest")
	folder := filepath.Join(root, hex.EncodeToString(sum.Sum(nil))[:16])
	if _, err := os.Stat(folder); err == nil {
		return folder, nil
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", err
	}
	temp, err := os.MkdirTemp(root, "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp) // nothing, if it was given its name
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(temp, name), b, 0o644); err != nil {
			return "", err
		}
	}
	cmd := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = temp
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w: %s", err, strings.TrimSpace(string(out)))
	}
	if err := os.Rename(temp, folder); err != nil {
		if _, serr := os.Stat(folder); serr == nil {
			return folder, nil
		}
		return "", err
	}
	return folder, nil
}
