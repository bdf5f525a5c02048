package evmtest

import (
	"embed"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/depinsim/x402/channel/npmtest"
)

// The programs that npm installs: Anvil, and the compiler of contracts/.
//
//go:embed npm/package.json npm/package-lock.json
var programs embed.FS

// npm returns the folder of their packages.
func npm(t testing.TB) string {
	t.Helper()
	fsys, err := fs.Sub(programs, "npm")
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(npmtest.Install(t, fsys), "node_modules")
}
