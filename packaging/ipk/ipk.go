// Package ipk writes and reads the packages of opkg, OpenWrt's package manager
// up to 24.10, and the indexes of its feeds, with their signatures.
//
// An .ipk is a gzipped tar of debian-binary ("2.0"), control.tar.gz (the fields,
// the scripts, the list of configuration files) and data.tar.gz (the files).
// What [Package.Write] writes depends on nothing but the package.
package ipk

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/depinsim/x402/packaging"
)

// The members of an .ipk.
const (
	memberVersion = "debian-binary"
	memberControl = "control.tar.gz"
	memberData    = "data.tar.gz"

	formatVersion = "2.0\n"
)

// Files of control.tar.gz besides the scripts.
const (
	controlFile   = "control"
	confFilesFile = "conffiles"
)

// scriptNames are the maintainer scripts that opkg runs.
var scriptNames = []string{"preinst", "postinst", "prerm", "postrm"}

// A Package is what an .ipk holds.
type Package struct {
	Name        string
	Version     string // as dpkg orders them; 1.0.0~rc1-r1 is before 1.0.0-r1
	Arch        string // must be a device's own, or "all"
	Depends     []string
	Section     string
	License     string
	Maintainer  string
	URL         string
	RequireUser string // USER:GROUP:MORE,GROUPS that default_postinst adds
	Description string // one line

	ConfFiles []string          // absolute: kept when their owner changed them
	Scripts   map[string]string // by scriptNames
	Time      time.Time         // of all files
	Files     packaging.Tree
}

// Filename is what feeds call the package.
func (p Package) Filename() string { return p.Name + "_" + p.Version + "_" + p.Arch + ".ipk" }

var (
	nameForm    = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,63}$`)
	versionForm = regexp.MustCompile(`^[0-9][A-Za-z0-9.+~_-]{0,63}$`)
	archForm    = regexp.MustCompile(`^[a-z0-9][A-Za-z0-9_+-]{0,63}$`)
)

// Check says what is wrong with a package.
func (p Package) Check() error {
	switch {
	case !nameForm.MatchString(p.Name):
		return fmt.Errorf("name %.64q", p.Name)
	case !versionForm.MatchString(p.Version):
		return fmt.Errorf("version %.64q", p.Version)
	case !archForm.MatchString(p.Arch):
		return fmt.Errorf("architecture %.64q", p.Arch)
	}
	for _, line := range p.control(0) {
		if strings.ContainsAny(line, "\r\n\x00") {
			return fmt.Errorf("a field of several lines: %.80q", line)
		}
	}
	for _, name := range p.ConfFiles {
		if p.Files.Find(strings.TrimPrefix(name, "/")) == nil || !strings.HasPrefix(name, "/") {
			return fmt.Errorf("configuration file %.80q: is not among the files", name)
		}
	}
	for name, text := range p.Scripts {
		if !isScript(name) || !strings.HasPrefix(text, "#!/bin/sh\n") {
			return fmt.Errorf("script %.40q: not one of %v, or not for /bin/sh", name, scriptNames)
		}
	}
	return p.Files.Check()
}

func isScript(name string) bool {
	return slices.Contains(scriptNames, name)
}

// control is the fields, one a line. opkg compares Installed-Size with what is
// free, in bytes.
func (p Package) control(installed int64) []string {
	var lines []string
	add := func(field, value string) {
		if value != "" {
			lines = append(lines, field+": "+value)
		}
	}
	add("Package", p.Name)
	add("Version", p.Version)
	add("Depends", strings.Join(p.Depends, ", "))
	add("License", p.License)
	add("Section", p.Section)
	add("Require-User", p.RequireUser)
	add("URL", p.URL)
	add("Maintainer", p.Maintainer)
	add("Architecture", p.Arch)
	add("Installed-Size", strconv.FormatInt(installed, 10))
	add("Description", p.Description)
	return lines
}

// Write writes the package.
func (p Package) Write(w io.Writer) error {
	if err := p.Check(); err != nil {
		return fmt.Errorf("package %.64s: %w", p.Name, err)
	}
	data, err := p.archive(p.Files)
	if err != nil {
		return err
	}
	control := packaging.Tree{{Path: controlFile, Mode: 0o644, Data: lines(p.control(p.Files.Size()))}}
	if len(p.ConfFiles) > 0 {
		control = append(control, packaging.File{Path: confFilesFile, Mode: 0o644, Data: lines(p.ConfFiles)})
	}
	for name, text := range p.Scripts {
		control = append(control, packaging.File{Path: name, Mode: 0o755, Data: []byte(text)})
	}
	control.Sort()
	meta, err := p.archive(control)
	if err != nil {
		return err
	}
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	t := p.tar(z)
	for _, member := range []packaging.File{
		{Path: memberVersion, Mode: 0o644, Data: []byte(formatVersion)},
		{Path: memberControl, Mode: 0o644, Data: meta},
		{Path: memberData, Mode: 0o644, Data: data},
	} {
		if err := t.file(member); err != nil {
			return err
		}
	}
	if err := t.w.Close(); err != nil {
		return err
	}
	return z.Close()
}

func lines(all []string) []byte { return []byte(strings.Join(all, "\n") + "\n") }

// archive is a gzipped tar of a tree with its directories.
func (p Package) archive(tree packaging.Tree) ([]byte, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	t := p.tar(z)
	for _, dir := range append([]string{""}, tree.Dirs()...) {
		if err := t.header(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
			return nil, err
		}
	}
	for _, f := range tree {
		if err := t.file(f); err != nil {
			return nil, err
		}
	}
	if err := t.w.Close(); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// A tarball writes entries that are root's and of one time.
type tarball struct {
	w    *tar.Writer
	time time.Time
}

func (p Package) tar(w io.Writer) tarball { return tarball{tar.NewWriter(w), p.Time} }

func (t tarball) header(h tar.Header) error {
	h.Name = "./" + h.Name
	if h.Typeflag == tar.TypeDir && h.Name != "./" {
		h.Name += "/"
	}
	h.ModTime, h.Uname, h.Gname, h.Format = t.time, "root", "root", tar.FormatUSTAR
	return t.w.WriteHeader(&h)
}

func (t tarball) file(f packaging.File) error {
	h := tar.Header{Typeflag: tar.TypeReg, Name: f.Path, Mode: int64(f.Mode & fs.ModePerm), Size: int64(len(f.Data))}
	if err := t.header(h); err != nil {
		return err
	}
	_, err := t.w.Write(f.Data)
	return err
}
