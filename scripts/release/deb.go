package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
)

// A deb is one package file.
type deb struct {
	path    string
	control string // its control file, without an empty line at the end
}

const (
	arMagic  = "!<arch>\n"
	arHeader = 60
	// maxControl is far more than a control archive has.
	maxControl = 1 << 20
)

// field is one field of the control file, "" if it is not there.
func (d deb) field(name string) string {
	for line := range strings.Lines(d.control) {
		if value, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// readDeb reads a package's control file: deb(5), an ar archive whose second
// member is control.tar.gz in those that are made here.
func readDeb(file string) (deb, error) {
	f, err := os.Open(file)
	if err != nil {
		return deb{}, err
	}
	defer f.Close()
	packed, err := member(f, "control.tar.gz")
	if err != nil {
		return deb{}, fmt.Errorf("%s: %w", file, err)
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return deb{}, fmt.Errorf("%s: control.tar.gz: %w", file, err)
	}
	for t := tar.NewReader(io.LimitReader(unpacked, maxControl)); ; {
		h, err := t.Next()
		if err != nil {
			return deb{}, fmt.Errorf("%s: control: %w", file, err)
		}
		if path.Clean(h.Name) != "control" {
			continue
		}
		b, err := io.ReadAll(t)
		d := deb{file, strings.TrimRight(string(b), "\n")}
		if err == nil && (d.field("Package") == "" || d.field("Version") == "" || d.field("Architecture") == "") {
			err = errors.New("names no Package, Version and Architecture")
		}
		if err != nil {
			return deb{}, fmt.Errorf("%s: control: %w", file, err)
		}
		return d, nil
	}
}

// member reads one member of an ar archive.
func member(r io.Reader, name string) ([]byte, error) {
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != arMagic {
		return nil, errors.New("no Debian package")
	}
	header := make([]byte, arHeader)
	for {
		if _, err := io.ReadFull(r, header); err != nil {
			return nil, fmt.Errorf("no %s: %w", name, err)
		}
		size, err := strconv.ParseInt(strings.TrimSpace(string(header[48:58])), 10, 64)
		if err != nil || size < 0 || string(header[58:]) != "`\n" {
			return nil, errors.New("a damaged archive")
		}
		if strings.TrimRight(string(header[:16]), " /") == name {
			if size > maxControl {
				return nil, fmt.Errorf("%s has %d bytes, limit %d", name, size, maxControl)
			}
			b := make([]byte, size)
			_, err := io.ReadFull(r, b)
			return b, err
		}
		if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
			return nil, fmt.Errorf("no %s: %w", name, err)
		}
	}
}
