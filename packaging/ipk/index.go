package ipk

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// An Entry is one package of a feed's index.
type Entry struct {
	Package  Package // without scripts and files
	Filename string
	Size     int64 // of the .ipk
	SHA256   [32]byte
	// Installed is the size of its files.
	Installed int64
}

// EntryOf describes a package that Write has turned into file.
func EntryOf(p Package, file []byte) Entry {
	e := Entry{Package: p, Filename: p.Filename(), Size: int64(len(file)), SHA256: sha256.Sum256(file), Installed: p.Files.Size()}
	e.Package.Scripts, e.Package.Files, e.Package.ConfFiles = nil, nil, nil
	return e
}

// Index is the file Packages of a feed: the fields of every package, where it is
// and its hash. Feeds serve it as Packages and Packages.gz, and its signature as
// Packages.sig.
func Index(entries []Entry) []byte {
	entries = slices.Clone(entries)
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Filename, b.Filename) })
	var b strings.Builder
	for _, e := range entries {
		fields := e.Package.control(e.Installed)
		at := len(fields) - 1 // the description comes last
		fields = slices.Insert(fields, at, "Filename: "+e.Filename, "Size: "+strconv.FormatInt(e.Size, 10), "SHA256sum: "+hex.EncodeToString(e.SHA256[:]))
		b.Write(lines(fields))
		b.WriteByte('\n')
	}
	return []byte(b.String())
}

// ReadIndex reads what Index makes.
func ReadIndex(b []byte) ([]Entry, error) {
	var entries []Entry
	text := string(b)
	for n := 1; text != ""; n++ {
		paragraph, rest, ok := strings.Cut(text, "\n\n")
		if !ok {
			return nil, fmt.Errorf("index: package %d: its empty line is missing", n)
		}
		text = rest
		e, err := readEntry(paragraph + "\n")
		if err != nil {
			return nil, fmt.Errorf("index: package %d: %w", n, err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func readEntry(paragraph string) (e Entry, err error) {
	var own []string
	place := map[string]string{}
	for line := range strings.Lines(paragraph) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "Filename", "Size", "SHA256sum":
			place[name] = value
		default:
			own = append(own, line)
		}
	}
	var p reader
	if err := p.readFields(strings.Join(own, "")); err != nil {
		return Entry{}, err
	}
	e.Package, e.Filename = p.Package, place["Filename"]
	sum, serr := hex.DecodeString(place["SHA256sum"])
	e.Size, err = strconv.ParseInt(place["Size"], 10, 64)
	if err == nil {
		e.Installed, err = strconv.ParseInt(p.size, 10, 64)
	}
	switch {
	case err != nil || serr != nil || len(sum) != len(e.SHA256) || e.Size < 0 || e.Installed < 0:
		return Entry{}, fmt.Errorf("size %.20q or %.20q, or hash %.80q", place["Size"], p.size, place["SHA256sum"])
	case strings.Contains(e.Filename, "/") || !strings.HasSuffix(e.Filename, ".ipk"):
		return Entry{}, fmt.Errorf("file name %.80q", e.Filename)
	}
	e.SHA256 = [32]byte(sum)
	return e, p.Check()
}
