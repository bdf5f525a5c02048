package apk

import (
	"cmp"
	"crypto/sha256"
	"io"
	"slices"
)

// An Entry is one package of a feed's index.
type Entry struct {
	Package   Package // without scripts and files
	Size      int64   // of the .apk
	Installed int64   // of its files
	// Hash is of the package's database, which in turn has the hashes of its files.
	Hash [sha256.Size]byte
}

// EntryOf describes a package that Write has turned into size bytes.
func EntryOf(p Package, size int64) Entry {
	e := Entry{Package: p, Size: size, Installed: p.Files.Size(), Hash: sha256.Sum256(p.database())}
	e.Package.Scripts, e.Package.Files = nil, nil
	return e
}

const (
	indexDescription = 1
	indexPackages    = 2
)

// WriteIndex writes packages.adb, signed by keys. apk looks for the packages
// beside it, by their file names.
func WriteIndex(w io.Writer, description string, entries []Entry, keys ...Key) error {
	entries = slices.Clone(entries)
	slices.SortFunc(entries, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Package.Name, b.Package.Name), cmp.Compare(a.Package.Version, b.Package.Version))
	})
	d := newBuilder()
	about := d.text(description)
	var packages []value
	for _, e := range entries {
		if err := e.Package.Check(); err != nil {
			return err
		}
		packages = append(packages, e.Package.info(d, d.blob(e.Hash[:]), e.Installed, e.Size))
	}
	b := d.finish(d.object(map[int]value{indexDescription: about, indexPackages: d.array(packages)}))
	return compress(w, func(w io.Writer) error { return writeSigned(w, schemaIndex, b, keys) })
}
