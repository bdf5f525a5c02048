package ipk

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/depinsim/x402/packaging"
)

// Bounds of what is read: a package of ours has about 11 MB and 20 files.
const (
	maxMember = 64 << 20
	maxFiles  = 1000
)

// Read reads a package, all of it. What it does not know is an error: it is for
// looking at what was built, not for other people's packages.
func Read(r io.Reader) (Package, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return Package{}, fmt.Errorf("ipk: %w", err)
	}
	var p reader
	t := tar.NewReader(z)
	for i, want := range []string{memberVersion, memberControl, memberData} {
		h, err := t.Next()
		if err != nil {
			return Package{}, fmt.Errorf("ipk: member %s: %w", want, err)
		}
		if h.Name != "./"+want || h.Typeflag != tar.TypeReg {
			return Package{}, fmt.Errorf("ipk: member %d is %.40q, want ./%s", i+1, h.Name, want)
		}
		b, err := readBounded(t, maxMember)
		if err != nil {
			return Package{}, fmt.Errorf("ipk: %s: %w", want, err)
		}
		if err := p.readMember(want, b); err != nil {
			return Package{}, fmt.Errorf("ipk: %s: %w", want, err)
		}
	}
	if _, err := t.Next(); !errors.Is(err, io.EOF) {
		return Package{}, errors.New("ipk: something follows the members")
	}
	if _, err := io.Copy(io.Discard, z); err != nil { // the checksum
		return Package{}, fmt.Errorf("ipk: %w", err)
	}
	if err := p.Check(); err != nil {
		return Package{}, fmt.Errorf("ipk: %w", err)
	}
	return p.Package, nil
}

// A reader collects what a package holds.
type reader struct {
	Package
	size string // Installed-Size
}

func (p *reader) readMember(name string, b []byte) error {
	if name == memberVersion {
		if string(b) != formatVersion {
			return fmt.Errorf("%.10q", b)
		}
		return nil
	}
	tree, err := p.readArchive(b)
	if err != nil {
		return err
	}
	if name == memberData {
		p.Files = tree
		return p.checkSize()
	}
	return p.readControl(tree)
}

func readBounded(r io.Reader, most int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("more than %d bytes", most)
	}
	return b, err
}

// readArchive returns the files of a gzipped tar. Every directory must come
// before what is in it, as opkg makes none.
func (p *reader) readArchive(b []byte) (packaging.Tree, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	unpacked := io.LimitReader(z, maxMember)
	t := tar.NewReader(unpacked)
	var tree packaging.Tree
	dirs := map[string]bool{}
	for n := 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := p.checkEntry(h); err != nil {
			return nil, fmt.Errorf("%.80q: %w", h.Name, err)
		}
		name, ok := strings.CutPrefix(h.Name, "./")
		if !ok || n > maxFiles {
			return nil, fmt.Errorf("%.80q: does not begin with ./, or is one of more than %d", h.Name, maxFiles)
		}
		if parent := name[:strings.LastIndexByte(strings.TrimSuffix(name, "/"), '/')+1]; n > 0 && !dirs[parent] {
			return nil, fmt.Errorf("%.80q: its directory does not come before it", h.Name)
		}
		if h.Typeflag == tar.TypeDir {
			if h.Mode != 0o755 {
				return nil, fmt.Errorf("%.80q: mode %o", h.Name, h.Mode)
			}
			dirs[name] = true
			continue
		}
		data, err := io.ReadAll(t)
		if err != nil {
			return nil, err
		}
		tree = append(tree, packaging.File{Path: name, Mode: fs.FileMode(h.Mode), Data: data})
	}
	if _, err := io.Copy(io.Discard, unpacked); err != nil {
		return nil, err
	}
	return tree, tree.Check()
}

// checkEntry wants root's files and directories, all of one time.
func (p *reader) checkEntry(h *tar.Header) error {
	if p.Time.IsZero() {
		p.Time = h.ModTime
	}
	switch {
	case h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir:
		return fmt.Errorf("type %q", h.Typeflag)
	case h.Uid != 0 || h.Gid != 0 || h.Uname != "root" || h.Gname != "root":
		return fmt.Errorf("belongs to %d:%d, %.20q:%.20q", h.Uid, h.Gid, h.Uname, h.Gname)
	case !h.ModTime.Equal(p.Time):
		return fmt.Errorf("is of %v, others of %v", h.ModTime, p.Time)
	case h.Mode&^0o777 != 0:
		return fmt.Errorf("mode %o", h.Mode)
	}
	return nil
}

func (p *reader) readControl(tree packaging.Tree) error {
	for _, f := range tree {
		switch {
		case f.Path == controlFile:
			if err := p.readFields(string(f.Data)); err != nil {
				return err
			}
		case f.Path == confFilesFile:
			p.ConfFiles = strings.Split(strings.TrimSuffix(string(f.Data), "\n"), "\n")
		case isScript(f.Path) && f.Mode == 0o755:
			if p.Scripts == nil {
				p.Scripts = map[string]string{}
			}
			p.Scripts[f.Path] = string(f.Data)
		default:
			return fmt.Errorf("unknown file %.40q, or one that is no program", f.Path)
		}
	}
	return nil
}

// readFields reads the lines of control.
func (p *reader) readFields(text string) error {
	fields, err := parseFields(text)
	if err != nil {
		return err
	}
	for name, into := range map[string]*string{
		"Package": &p.Name, "Version": &p.Version, "Architecture": &p.Arch, "License": &p.License, "Section": &p.Section,
		"Require-User": &p.RequireUser, "URL": &p.URL, "Maintainer": &p.Maintainer, "Description": &p.Description, "Installed-Size": &p.size,
	} {
		*into = fields[name]
		delete(fields, name)
	}
	if d := fields["Depends"]; d != "" {
		p.Depends = strings.Split(d, ", ")
		delete(fields, "Depends")
	}
	for name := range fields {
		return fmt.Errorf("unknown field %.40q", name)
	}
	return nil
}

// parseFields reads lines of "Name: value".
func parseFields(text string) (map[string]string, error) {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if _, twice := fields[name]; !ok || twice || name == "" || value == "" {
			return nil, fmt.Errorf("field %.80q", line)
		}
		fields[name] = value
	}
	return fields, nil
}

func (p *reader) checkSize() error {
	if want := strconv.FormatInt(p.Files.Size(), 10); p.size != want {
		return fmt.Errorf("Installed-Size is %.20q, the files have %s bytes", p.size, want)
	}
	return nil
}
