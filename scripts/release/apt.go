package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
)

// keyringName is the public key at the root of the repository.
const keyringName = "x402-archive-keyring.pgp"

// apt adds packages to the repository in o.root and writes its lists anew, of
// all packages that are in the pool then:
//
//	pool/main/x/NAME/NAME_VERSION_ARCH.deb, and .deb.phase
//	dists/stable/main/binary-ARCH/Packages, Packages.gz
//	dists/stable/Release, and signed as InRelease
func apt(o options, files []string) error {
	if o.root == "" || o.phase < 0 || o.phase > 100 {
		return errors.New("apt: -root DIR is required, and -phase is 0 to 100")
	}
	var key *openpgp.Entity
	if o.key != "" {
		var err error
		if key, err = readKey(o.key); err != nil {
			return err
		}
	}
	for _, file := range files {
		if err := pool(o, file); err != nil {
			return err
		}
	}
	lists, err := packageLists(o.root)
	if err != nil {
		return err
	}
	dist := filepath.Join(o.root, "dists/stable")
	for name, b := range lists {
		if err := write(filepath.Join(dist, name), b); err != nil {
			return err
		}
	}
	release := releaseFile(lists, o.when)
	if err := write(filepath.Join(dist, "Release"), release); err != nil || key == nil {
		return err
	}
	signed, err := clearsigned(release, key, o.when)
	var public bytes.Buffer
	if err := errors.Join(err, key.Serialize(&public)); err != nil {
		return err
	}
	return errors.Join(write(filepath.Join(dist, "InRelease"), signed), write(filepath.Join(o.root, keyringName), public.Bytes()))
}

func write(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}

// phaseSuffix names a file beside a package in the pool: to how many percent of
// the machines it is offered.
const phaseSuffix = ".phase"

// pool copies a package to where it belongs, or finds it there, and notes its
// phase. One that is there with other bytes is an error: hubs have it already.
func pool(o options, file string) error {
	d, err := readDeb(file)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%s_%s_%s.deb", d.field("Package"), d.field("Version"), d.field("Architecture"))
	to := filepath.Join(o.root, "pool/main/x", d.field("Package"), name)
	switch there, err := os.ReadFile(to); {
	case err == nil && !bytes.Equal(there, b):
		return fmt.Errorf("%s is in the repository with other content: raise the version", name)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return errors.Join(write(to, b), write(to+phaseSuffix, []byte(strconv.Itoa(o.phase))))
}

// packageLists are the files Packages and Packages.gz of each architecture, by
// their names below dists/stable.
func packageLists(root string) (map[string][]byte, error) {
	var all []deb
	err := filepath.WalkDir(filepath.Join(root, "pool"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".deb" {
			return err
		}
		p, err := readDeb(path)
		all = append(all, p)
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b deb) int { return cmp.Compare(a.path, b.path) })
	lists := map[string]*bytes.Buffer{}
	for _, p := range all {
		stanza, err := p.stanza(root)
		if err != nil {
			return nil, err
		}
		arch := p.field("Architecture")
		if lists[arch] == nil {
			lists[arch] = &bytes.Buffer{}
		}
		lists[arch].WriteString(stanza)
	}
	named := map[string][]byte{}
	for arch, list := range lists {
		var packed bytes.Buffer
		z, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression) // a level that there is
		_, err := z.Write(list.Bytes())
		if err := errors.Join(err, z.Close()); err != nil {
			return nil, err
		}
		name := "main/binary-" + arch + "/Packages"
		named[name], named[name+".gz"] = list.Bytes(), packed.Bytes()
	}
	return named, nil
}

// stanza is a package's part of Packages.
func (d deb) stanza(root string) (string, error) {
	sum, err := sumOf(d.path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(d.path)
	if err != nil {
		return "", err
	}
	name, err := filepath.Rel(root, d.path)
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf("%s\nFilename: %s\nSize: %d\nSHA256: %s\n", d.control, filepath.ToSlash(name), info.Size(), sum)
	switch phase, err := os.ReadFile(d.path + phaseSuffix); {
	case errors.Is(err, fs.ErrNotExist), err == nil && string(phase) == "100":
	case err != nil:
		return "", err
	default:
		text += fmt.Sprintf("Phased-Update-Percentage: %s\n", phase)
	}
	return text + "\n", nil
}

// releaseFile is what InRelease signs: DebianRepository/Format on wiki.debian.org.
func releaseFile(lists map[string][]byte, when time.Time) []byte {
	var names, architectures []string
	for name := range lists {
		names = append(names, name)
		if arch, ok := strings.CutSuffix(strings.TrimPrefix(name, "main/binary-"), "/Packages"); ok {
			architectures = append(architectures, arch)
		}
	}
	slices.Sort(names)
	slices.Sort(architectures)
	var b bytes.Buffer
	fmt.Fprintf(&b, "Origin: X402\nLabel: X402\nSuite: stable\nCodename: stable\nDate: %s\n", when.Format("Mon, 02 Jan 2006 15:04:05 UTC"))
	fmt.Fprintf(&b, "Architectures: %s\nComponents: main\nDescription: X402 agent, relay, facilitator and tool\nSHA256:\n", strings.Join(architectures, " "))
	for _, name := range names {
		fmt.Fprintf(&b, " %x %d %s\n", sha256.Sum256(lists[name]), len(lists[name]), name)
	}
	return b.Bytes()
}
