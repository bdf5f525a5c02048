// Package luci holds luci-app-x402, the pages of x402-agent in OpenWrt's web
// interface: what LuCI serves (htdocs), what it is told of the app (root), and
// translations (po), which it loads compiled. [Files] is what a package installs.
package luci

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

//go:embed htdocs root po
var embedded embed.FS

// Installed is what a package does after its files have come: LuCI forgets its
// menu, and rpcd reads the rights. Removed is what it does before they go.
const (
	Installed = `[ -n "$IPKG_INSTROOT" ] || {
	rm -rf /tmp/luci-indexcache* /tmp/luci-modulecache
	/etc/init.d/rpcd reload 2>/dev/null
}
exit 0
`
	Removed = `[ -n "$IPKG_INSTROOT" ] || rm -rf /tmp/luci-indexcache* /tmp/luci-modulecache
exit 0
`
)

// catalogs are the names that LuCI has for the languages of po's folders.
var catalogs = map[string]string{"de": "de", "es": "es", "zh_Hans": "zh-cn"}

// Executable says whether a file of [Files] is a program.
func Executable(name string) bool { return strings.HasPrefix(name, "usr/libexec/") }

// Files are the app's files by their paths below the root.
func Files() (map[string][]byte, error) {
	files := map[string][]byte{}
	for from, to := range map[string]string{"htdocs": "www", "root": ""} {
		err := fs.WalkDir(embedded, from, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := embedded.ReadFile(name)
			files[path.Join(to, strings.TrimPrefix(name, from+"/"))] = b
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	for folder, language := range catalogs {
		b, err := embedded.ReadFile("po/" + folder + "/x402.po")
		if err != nil {
			return nil, err
		}
		all, err := ParsePO(b)
		if err != nil {
			return nil, fmt.Errorf("po/%s/x402.po: %w", folder, err)
		}
		files["usr/lib/lua/luci/i18n/x402."+language+".lmo"] = Compile(all)
	}
	return files, nil
}
