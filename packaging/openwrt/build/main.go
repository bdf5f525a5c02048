// Command build makes x402-agent's packages for OpenWrt from the programs that
// scripts/cross.sh built, and a feed of each architecture with them and the pages.
//
//	build [flags] ARCH...
//	build -new-keys NAME
//
// They go to DIST/packages/opkg/ARCH and DIST/packages/apk/ARCH. Every package is
// read back and compared, its signature too. Keys are named by flags or the
// environment; without one the feed is not signed. -new-keys makes both.
package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/packaging/apk"
	"github.com/depinsim/x402/packaging/ipk"
	"github.com/depinsim/x402/packaging/openwrt"
)

// The budget is for the commonest router with little flash: a package is in
// memory while it is installed. docs/decisions/0032-openwrt-packages.md has what
// its size is made of.
const (
	budgetArch = "mipsel_24kc"
	budgetIPK  = 3_550_000
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}

// A job is what all packages have in common.
type job struct {
	dist    string
	version openwrt.Version
	time    time.Time
	usign   *ipk.Key // nil: not signed
	apk     *apk.Key
}

func run() error {
	dist := flag.String("dist", "dist", "folder with one folder a target, for the packages too")
	version := flag.String("version", "", "as git describe prints it")
	date := flag.Int64("date", 0, "time of all files, in seconds since 1970")
	usign := flag.String("usign-key", os.Getenv("X402_USIGN_KEY"), "secret key of usign for opkg's index (X402_USIGN_KEY)")
	apkKey := flag.String("apk-key", os.Getenv("X402_APK_KEY"), "private key of P-256 in PEM for apk's packages and index (X402_APK_KEY)")
	name := flag.String("new-keys", "", "make no packages, but the keys that sign: NAME.usign and NAME.pem")
	flag.Parse()
	if *name != "" {
		return makeKeys(*name)
	}
	j := job{dist: *dist, time: time.Unix(*date, 0)}
	var err error
	if j.version, err = openwrt.ParseVersion(*version); err != nil {
		return err
	}
	if err := j.readKeys(*usign, *apkKey); err != nil {
		return err
	}
	archs := flag.Args()
	if len(archs) == 0 {
		for _, t := range openwrt.Targets {
			archs = append(archs, t.Archs...)
		}
	}
	var g errgroup.Group
	g.SetLimit(runtime.NumCPU())
	sizes := make([][2]int, len(archs))
	for i, arch := range archs {
		g.Go(func() (err error) {
			sizes[i], err = j.arch(arch)
			if err != nil {
				err = fmt.Errorf("%s: %w", arch, err)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return j.report(archs, sizes)
}

// arch makes the two feeds of an architecture and returns the sizes of the
// packages.
func (j job) arch(arch string) (sizes [2]int, err error) {
	target := openwrt.TargetOf(arch)
	if target == "" {
		return sizes, errors.New("no build is for this architecture")
	}
	program, err := os.ReadFile(filepath.Join(j.dist, target, "x402-agent"))
	if err != nil {
		return sizes, err
	}
	p, err := openwrt.Agent(j.version, arch, j.time, program)
	if err != nil {
		return sizes, err
	}
	pages, err := openwrt.LuCI(j.version, j.time)
	if err != nil {
		return sizes, err
	}
	feed := []openwrt.Package{p, pages}
	if sizes[0], err = j.opkg(arch, feed); err == nil {
		sizes[1], err = j.apkTools(arch, feed)
	}
	return sizes, err
}

// opkg makes an architecture's feed for opkg and returns the size of the first
// package in it.
func (j job) opkg(arch string, feed []openwrt.Package) (size int, err error) {
	files := map[string][]byte{}
	var entries []ipk.Entry
	for _, p := range feed {
		b, entry, err := p.WriteIPK()
		if err != nil {
			return 0, err
		}
		if _, err := ipk.Read(bytes.NewReader(b)); err != nil {
			return 0, err
		}
		files[entry.Filename] = b
		entries = append(entries, entry)
	}
	index := ipk.Index(entries)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(index); err != nil {
		return 0, err
	}
	if err := z.Close(); err != nil {
		return 0, err
	}
	files["Packages"], files["Packages.gz"] = index, packed.Bytes()
	if j.usign != nil {
		sig := j.usign.Sign(index)
		if err := j.usign.Public().Verify(index, sig); err != nil {
			return 0, err
		}
		files["Packages.sig"] = sig
	}
	return len(files[entries[0].Filename]), j.write("opkg", arch, files)
}

// apkTools makes an architecture's feed for apk and returns the size of the first
// package in it.
func (j job) apkTools(arch string, feed []openwrt.Package) (size int, err error) {
	var keys []apk.Key
	var by *apk.PublicKey
	if j.apk != nil {
		public := j.apk.Public()
		keys, by = []apk.Key{*j.apk}, &public
	}
	files := map[string][]byte{}
	var entries []apk.Entry
	for _, p := range feed {
		b, entry, err := p.WriteAPK(keys...)
		if err != nil {
			return 0, err
		}
		if _, err := apk.Read(bytes.NewReader(b), by); err != nil {
			return 0, err
		}
		files[p.APK().Filename()] = b
		entries = append(entries, entry)
	}
	var index bytes.Buffer
	if err := apk.WriteIndex(&index, "x402", entries, keys...); err != nil {
		return 0, err
	}
	if _, _, err := apk.ReadIndex(bytes.NewReader(index.Bytes()), by); err != nil {
		return 0, err
	}
	files["packages.adb"] = index.Bytes()
	return len(files[feed[0].APK().Filename()]), j.write("apk", arch, files)
}

// write replaces a feed's folder.
func (j job) write(manager, arch string, files map[string][]byte) error {
	dir := filepath.Join(j.dist, "packages", manager, arch)
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// report writes the public keys, prints what was made, and checks the budget.
func (j job) report(archs []string, sizes [][2]int) error {
	root := filepath.Join(j.dist, "packages")
	if j.usign != nil {
		public := j.usign.Public()
		text, err := public.MarshalText()
		if err == nil {
			err = os.WriteFile(filepath.Join(root, "opkg", public.ID()), text, 0o644)
		}
		if err != nil {
			return err
		}
	} else {
		fmt.Println("opkg's feeds are not signed: name a key by --usign-key or X402_USIGN_KEY")
	}
	if j.apk != nil {
		text, err := j.apk.Public().MarshalText()
		if err == nil {
			err = os.WriteFile(filepath.Join(root, "apk", "x402.pem"), text, 0o644)
		}
		if err != nil {
			return err
		}
	} else {
		fmt.Println("apk's packages and feeds are not signed: name a key by --apk-key or X402_APK_KEY")
	}
	fmt.Printf("%-26s %10s %10s  version %s, %s\n", "in "+root, "ipk", "apk", j.version.IPK(), j.version.APK())
	for i, arch := range archs {
		budget := ""
		if arch == budgetArch {
			budget = "  budget " + strconv.Itoa(budgetIPK)
			if sizes[i][0] > budgetIPK {
				return fmt.Errorf("%s: the .ipk is %d bytes, budget %d", arch, sizes[i][0], budgetIPK)
			}
		}
		fmt.Printf("%-26s %10d %10d%s\n", arch, sizes[i][0], sizes[i][1], budget)
	}
	return nil
}
