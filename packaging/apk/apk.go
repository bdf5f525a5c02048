// Package apk writes and reads the packages of apk-tools 3, OpenWrt's package
// manager since 25.12, and the indexes of its feeds.
//
// Both are databases ("ADB"): a tree of values in one block, then signatures,
// then in packages a block for the content of each file. Numbers are little
// endian. The whole may be compressed, by "ADBd" and a raw deflate stream; that
// is all that OpenWrt's apk knows besides none.
//
//	"ADB." schema
//	block 0: root value; leaves before what refers to them
//	block 1: key, signature of schema and block 0
//	block 2: directory, file, content; in the order of the tree
package apk

import (
	"bytes"
	"cmp"
	"compress/flate"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/depinsim/x402/packaging"
)

const (
	magicPlain   = "ADB."
	magicDeflate = "ADBd"

	schemaPackage = "pckg"
	schemaIndex   = "indx"
)

// Kinds of a block.
const (
	blockADB  = 0
	blockSig  = 1
	blockData = 2
)

// Fields of a package and of what is in it.
const (
	pkgInfo    = 1
	pkgPaths   = 2
	pkgScripts = 3

	infoName        = 1
	infoVersion     = 2
	infoHashes      = 3 // in a package 20 bytes that name it, in an index its hash
	infoDescription = 4
	infoArch        = 5
	infoLicense     = 6
	infoOrigin      = 7
	infoMaintainer  = 8
	infoURL         = 9
	infoBuildTime   = 11
	infoInstalled   = 12
	infoFileSize    = 13
	infoDepends     = 15

	depName = 1

	dirName  = 1
	dirACL   = 2
	dirFiles = 3

	fileName   = 1
	fileACL    = 2
	fileSize   = 3
	fileTime   = 4
	fileHashes = 5

	aclMode  = 1
	aclUser  = 2
	aclGroup = 3
)

// scriptFields are the maintainer scripts by their names.
var scriptFields = map[string]int{
	"trigger": 1, "pre-install": 2, "post-install": 3, "pre-deinstall": 4, "post-deinstall": 5, "pre-upgrade": 6, "post-upgrade": 7,
}

// nameSize is the size of the bytes that name a package.
const nameSize = 20

// A Package is what an .apk holds.
type Package struct {
	Name        string
	Version     string // as CheckVersion wants it
	Arch        string // must be a device's own, or "noarch"
	Depends     []string
	License     string
	Maintainer  string
	Origin      string
	URL         string
	Description string

	Scripts map[string]string // by the names of scriptFields
	Time    time.Time         // of all files
	Files   packaging.Tree
}

// Filename is what feeds call the package.
func (p Package) Filename() string { return p.Name + "-" + p.Version + ".apk" }

var (
	nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9+._-]{1,63}$`)
	archForm = regexp.MustCompile(`^[a-z0-9][A-Za-z0-9_+-]{0,63}$`)
	// versionForm is 1.2.3b_rc1_p2~0123abc-r4, of which all but the first number
	// may be left out.
	versionForm = regexp.MustCompile(`^[0-9]{1,9}(\.[0-9]{1,9})*[a-z]?(_(alpha|beta|pre|rc|cvs|svn|git|hg|p)[0-9]{0,9})*(~[0-9a-f]{1,40})?(-r[0-9]{1,9})?$`)
)

// CheckVersion says whether apk takes a version.
func CheckVersion(version string) error {
	if !versionForm.MatchString(version) {
		return fmt.Errorf("version %.64q: want such as 1.0.0_rc1-r1", version)
	}
	return nil
}

// Check says what is wrong with a package.
func (p Package) Check() error {
	if err := CheckVersion(p.Version); err != nil {
		return err
	}
	switch {
	case !nameForm.MatchString(p.Name):
		return fmt.Errorf("name %.64q", p.Name)
	case !archForm.MatchString(p.Arch):
		return fmt.Errorf("architecture %.64q", p.Arch)
	case p.Time.Unix() < 0 || p.Time.Unix() >= 1<<32:
		return fmt.Errorf("time %v", p.Time)
	}
	for _, d := range p.Depends {
		if !nameForm.MatchString(d) {
			return fmt.Errorf("dependency %.64q: want a name", d)
		}
	}
	for name, text := range p.Scripts {
		if scriptFields[name] == 0 || !strings.HasPrefix(text, "#!/bin/sh\n") {
			return fmt.Errorf("script %.40q: unknown, or not for /bin/sh", name)
		}
	}
	return p.Files.Check()
}

// Write writes the package, signed by keys.
func (p Package) Write(w io.Writer, keys ...Key) error {
	if err := p.Check(); err != nil {
		return fmt.Errorf("package %.64s: %w", p.Name, err)
	}
	return compress(w, func(w io.Writer) error {
		if err := writeSigned(w, schemaPackage, p.database(), keys); err != nil {
			return err
		}
		return p.writeData(w)
	})
}

func compress(w io.Writer, write func(io.Writer) error) error {
	if _, err := io.WriteString(w, magicDeflate); err != nil {
		return err
	}
	z, err := flate.NewWriter(w, flate.BestCompression)
	if err == nil {
		err = write(z)
	}
	if err != nil {
		return err
	}
	return z.Close()
}

// info is the object that packages and indexes have in common. A package does not
// say its own size, which is 0 then.
func (p Package) info(w *builder, hashes value, installed, size int64) value {
	depends := slices.Clone(p.Depends)
	slices.Sort(depends)
	var deps []value
	for _, d := range slices.Compact(depends) {
		deps = append(deps, w.object(map[int]value{depName: w.text(d)}))
	}
	fields := map[int]value{
		infoName: w.text(p.Name), infoVersion: w.text(p.Version), infoHashes: hashes, infoDescription: w.text(p.Description),
		infoArch: w.text(p.Arch), infoLicense: w.text(p.License), infoOrigin: w.text(p.Origin), infoMaintainer: w.text(p.Maintainer),
		infoURL: w.text(p.URL), infoBuildTime: w.integer(uint64(p.Time.Unix())),
		infoInstalled: w.integer(uint64(max(installed, 1))), infoDepends: w.array(deps),
	}
	if size > 0 {
		fields[infoFileSize] = w.integer(uint64(size))
	}
	return w.object(fields)
}

// folder returns the files that are in a directory itself.
func (p Package) folder(dir string) packaging.Tree {
	var files packaging.Tree
	for _, f := range p.Files {
		if path.Dir(f.Path) == dir || dir == "" && path.Dir(f.Path) == "." {
			files = append(files, f)
		}
	}
	slices.SortFunc(files, func(a, b packaging.File) int { return cmp.Compare(path.Base(a.Path), path.Base(b.Path)) })
	return files
}

// database is the package's block. Its name is a hash of itself with the name
// zero.
func (p Package) database() []byte {
	w := newBuilder()
	name, nameAt := w.ownBlob(make([]byte, nameSize))
	info := p.info(w, name, p.Files.Size(), 0)
	acl := func(mode uint64) value {
		return w.object(map[int]value{aclMode: w.integer(mode), aclUser: w.text("root"), aclGroup: w.text("root")})
	}
	var dirs []value
	for _, dir := range append([]string{""}, p.Files.Dirs()...) {
		var files []value
		for _, f := range p.folder(dir) {
			hash := sha256.Sum256(f.Data)
			files = append(files, w.object(map[int]value{
				fileName: w.text(path.Base(f.Path)), fileACL: acl(uint64(f.Mode)), fileSize: w.integer(uint64(len(f.Data))),
				fileTime: w.integer(uint64(p.Time.Unix())), fileHashes: w.blob(hash[:]),
			}))
		}
		dirs = append(dirs, w.object(map[int]value{dirName: w.text(dir), dirACL: acl(0o755), dirFiles: w.array(files)}))
	}
	scripts := map[int]value{}
	for _, name := range slices.Sorted(maps.Keys(p.Scripts)) {
		scripts[scriptFields[name]] = w.text(p.Scripts[name])
	}
	b := w.finish(w.object(map[int]value{pkgInfo: info, pkgPaths: w.array(dirs), pkgScripts: w.object(scripts)}))
	hash := sha256.Sum256(b)
	copy(b[nameAt:nameAt+nameSize], hash[:])
	return b
}

// writeData writes the content of every file that has one.
func (p Package) writeData(w io.Writer) error {
	for d, dir := range append([]string{""}, p.Files.Dirs()...) {
		for n, f := range p.folder(dir) {
			if len(f.Data) == 0 {
				continue
			}
			head := binary.LittleEndian.AppendUint32(nil, uint32(d+1))
			head = binary.LittleEndian.AppendUint32(head, uint32(n+1))
			if err := writeBlock(w, blockData, head, f.Data); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeBlock writes a word with kind and size, the parts, and zeros up to a
// multiple of eight.
func writeBlock(w io.Writer, kind uint32, parts ...[]byte) error {
	size := 4
	for _, part := range parts {
		size += len(part)
	}
	if size >= 1<<30 {
		return fmt.Errorf("a block of %d bytes", size)
	}
	all := append([][]byte{binary.LittleEndian.AppendUint32(nil, kind<<30|uint32(size))}, parts...)
	_, err := w.Write(append(bytes.Join(all, nil), make([]byte, -size&7)...))
	return err
}
