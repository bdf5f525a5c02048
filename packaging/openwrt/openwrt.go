// Package openwrt says what is in x402-agent's packages for OpenWrt, for which
// routers, and writes them for both of its package managers: opkg, which 24.10
// and older have, and apk, since 25.12. What the files below files do is in
// docs/openwrt.md; the Makefiles below it are for OpenWrt's own build.
package openwrt

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/depinsim/x402/packaging"
	"github.com/depinsim/x402/packaging/apk"
	"github.com/depinsim/x402/packaging/ipk"
	luci "github.com/depinsim/x402/packaging/openwrt/luci-app-x402"
)

//go:embed files scripts
var embedded embed.FS

// A Package is what both formats hold in the same way.
type Package struct {
	Name        string
	Version     Version
	Arch        string // AnyArch, or a router's own
	Depends     []string
	Description string
	User        string // made by the package manager: USER:GROUP:MORE
	ConfFiles   []string
	Installed   string // what the scripts do after the installation, and before the removal
	Remove      string
	Time        time.Time
	Files       packaging.Tree
}

// AnyArch is the architecture of packages without programs.
const AnyArch = "all"

// What is the same for all packages.
const (
	license    = "Apache-2.0"
	maintainer = "X402 maintainers"
	url        = "https://github.com/depinsim/x402"
	origin     = "x402"
	section    = "net"
)

// Agent is the package of x402-agent for an architecture.
func Agent(v Version, arch string, at time.Time, program []byte) (Package, error) {
	p := Package{
		Name: "x402-agent", Version: v, Arch: arch, Depends: []string{"ca-bundle"},
		Description: "sells traffic over this router's SIM by the byte",
		User:        "x402:x402:dialout", ConfFiles: []string{"/etc/config/x402"}, Time: at,
		Files: packaging.Tree{{Path: "usr/bin/x402-agent", Mode: 0o755, Data: program}},
	}
	err := fs.WalkDir(embedded, "files", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := embedded.ReadFile(name)
		name = strings.TrimPrefix(name, "files/")
		p.Files = append(p.Files, packaging.File{Path: name, Mode: mode(name), Data: data})
		return err
	})
	if err != nil {
		return p, err
	}
	p.Files.Sort()
	for name, into := range map[string]*string{"scripts/installed.sh": &p.Installed, "scripts/remove.sh": &p.Remove} {
		text, err := embedded.ReadFile(name)
		if err != nil {
			return p, err
		}
		*into = string(text)
	}
	return p, nil
}

// LuCI is the package of the agent's pages in OpenWrt's web interface.
func LuCI(v Version, at time.Time) (Package, error) {
	p := Package{
		Name: "luci-app-x402", Version: v, Arch: AnyArch, Depends: []string{"luci-base", "x402-agent"},
		Description: "x402-agent in LuCI: set-up, status, policy and log",
		Installed:   luci.Installed, Remove: luci.Removed, Time: at,
	}
	files, err := luci.Files()
	for name, data := range files {
		f := packaging.File{Path: name, Mode: 0o644, Data: data}
		if luci.Executable(name) {
			f.Mode = 0o755
		}
		p.Files = append(p.Files, f)
	}
	p.Files.Sort()
	return p, err
}

// mode is that of a file by its place: an embedded one has none.
func mode(name string) fs.FileMode {
	switch {
	case strings.HasPrefix(name, "etc/init.d/"):
		return 0o755
	case strings.HasPrefix(name, "etc/config/"): // a SIM's PIN may be in it
		return 0o600
	}
	return 0o644
}

// IPK is the package for opkg. default_postinst and default_prerm find its name
// by the script's, and add the user by the field Require-User.
func (p Package) IPK() ipk.Package {
	return ipk.Package{
		Name: p.Name, Version: p.Version.IPK(), Arch: p.Arch, Depends: p.Depends, Section: section, License: license,
		Maintainer: maintainer, URL: url, RequireUser: p.User, Description: p.Description, ConfFiles: p.ConfFiles, Time: p.Time,
		Scripts: map[string]string{
			"postinst": "#!/bin/sh\n[ \"$IPKG_NO_SCRIPT\" = 1 ] && exit 0\n" + functions + "default_postinst \"$0\" \"$@\"\n" + p.Installed,
			"prerm":    "#!/bin/sh\n" + functions + "default_prerm \"$0\" \"$@\"\n" + p.Remove,
		},
		Files: p.Files,
	}
}

// functions has a script end where there is no OpenWrt, as in a bare root.
const functions = "[ -s \"$IPKG_INSTROOT/lib/functions.sh\" ] || exit 0\n. \"$IPKG_INSTROOT/lib/functions.sh\"\n"

// APK is the package for apk, which knows nothing of services, users and
// configuration files: OpenWrt's own scripts find them in lists that the package
// brings, and its name in a variable.
func (p Package) APK() apk.Package {
	named := functions + "export root=\"$IPKG_INSTROOT\" pkgname=" + p.Name + "\n"
	install := named + "add_group_and_user\ndefault_postinst\n" + p.Installed
	arch := p.Arch
	if arch == AnyArch {
		arch = "noarch"
	}
	return apk.Package{
		Name: p.Name, Version: p.Version.APK(), Arch: arch, Depends: p.Depends, License: license, Maintainer: maintainer,
		Origin: origin, URL: url, Description: p.Description, Time: p.Time,
		Scripts: map[string]string{
			"post-install":  "#!/bin/sh\n[ \"$IPKG_NO_SCRIPT\" = 1 ] && exit 0\n" + install,
			"post-upgrade":  "#!/bin/sh\nexport PKG_UPGRADE=1\n[ \"$IPKG_NO_SCRIPT\" = 1 ] && exit 0\n" + install,
			"pre-deinstall": "#!/bin/sh\n" + named + "default_prerm\n" + p.Remove,
		},
		Files: p.lists(),
	}
}

// lists adds the lists of /lib/apk/packages to the files.
func (p Package) lists() packaging.Tree {
	files := append(packaging.Tree(nil), p.Files...)
	add := func(ending, text string) {
		if text != "" {
			files = append(files, packaging.File{Path: "lib/apk/packages/" + p.Name + ending, Mode: 0o644, Data: []byte(text)})
		}
	}
	if p.User != "" {
		add(".rusers", p.User+"\n")
	}
	var all, conf, static strings.Builder
	for _, name := range p.ConfFiles {
		hash := sha256.Sum256(p.Files.Find(strings.TrimPrefix(name, "/")).Data)
		fmt.Fprintf(&conf, "%s\n", name)
		fmt.Fprintf(&static, "%s %s\n", name, hex.EncodeToString(hash[:]))
	}
	files.Sort()
	for _, f := range files {
		fmt.Fprintf(&all, "/%s\n", f.Path)
	}
	add(".conffiles", conf.String())
	add(".conffiles_static", static.String())
	add(".list", all.String())
	files.Sort()
	return files
}

// WriteIPK returns the .ipk and its entry in an index.
func (p Package) WriteIPK() ([]byte, ipk.Entry, error) {
	var b bytes.Buffer
	out := p.IPK()
	err := out.Write(&b)
	return b.Bytes(), ipk.EntryOf(out, b.Bytes()), err
}

// WriteAPK returns the .apk, signed by keys, and its entry in an index.
func (p Package) WriteAPK(keys ...apk.Key) ([]byte, apk.Entry, error) {
	var b bytes.Buffer
	out := p.APK()
	if err := out.Write(&b, keys...); err != nil {
		return nil, apk.Entry{}, err
	}
	return b.Bytes(), apk.EntryOf(out, int64(b.Len())), nil
}
