package apk

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/depinsim/x402/packaging"
)

// Bounds of what is read: a package of ours has about 11 MB and 20 files.
const (
	maxFile    = 64 << 20
	maxFiles   = 1000
	maxEntries = 10_000 // of an array
)

// A SignedError says that the signature is not what is asked for.
type SignedError struct{ error }

// Read reads a package, all of it. With a key it must be signed by it. What it
// does not know is an error: it is for looking at what was built, not for other
// people's packages.
func Read(r io.Reader, by *PublicKey) (Package, error) {
	db, rest, err := open(r, schemaPackage, by)
	if err != nil {
		return Package{}, err
	}
	d := decoder{b: db}
	root := d.object(d.root(), pkgScripts)
	p, _, _ := d.info(root[pkgInfo])
	name := d.blob(d.object(root[pkgInfo], infoDepends)[infoHashes])
	for i, v := range d.object(root[pkgScripts], len(scriptFields)) {
		for name, n := range scriptFields {
			if n == i && v != null {
				if p.Scripts == nil {
					p.Scripts = map[string]string{}
				}
				p.Scripts[name] = d.text(v)
			}
		}
	}
	if d.err == nil {
		rest, err = p.readDirs(&d, root[pkgPaths], rest)
	}
	switch {
	case d.err != nil || err != nil:
		return Package{}, fmt.Errorf("apk: %w", errors.Join(d.err, err))
	case len(rest) > 0:
		return Package{}, errors.New("apk: something follows the last file")
	case len(name) != nameSize:
		return Package{}, fmt.Errorf("apk: named by %d bytes", len(name))
	}
	// It is a hash of the database with zeros in the name's own place.
	at := bytes.Index(db, name)
	hash := sha256.Sum256(bytes.Join([][]byte{db[:at], make([]byte, nameSize), db[at+nameSize:]}, nil))
	if !bytes.Equal(hash[:nameSize], name) {
		return Package{}, errors.New("apk: its name is not its hash")
	}
	p.Files.Sort()
	if err := p.Check(); err != nil {
		return Package{}, fmt.Errorf("apk: %w", err)
	}
	return p, nil
}

// ReadIndex reads packages.adb. With a key it must be signed by it.
func ReadIndex(r io.Reader, by *PublicKey) (description string, entries []Entry, err error) {
	db, rest, err := open(r, schemaIndex, by)
	if err != nil {
		return "", nil, err
	}
	if len(rest) > 0 {
		return "", nil, errors.New("apk: something follows the index")
	}
	d := decoder{b: db}
	root := d.object(d.root(), indexPackages)
	description = d.text(root[indexDescription])
	for _, v := range d.array(root[indexPackages]) {
		var e Entry
		e.Package, e.Installed, e.Size = d.info(v)
		if hash := d.blob(d.object(v, infoDepends)[infoHashes]); len(hash) == len(e.Hash) {
			e.Hash = [sha256.Size]byte(hash)
		} else {
			d.fail("a hash of %d bytes", len(hash))
		}
		if d.err == nil {
			d.err = e.Package.Check()
		}
		entries = append(entries, e)
	}
	if d.err != nil {
		return "", nil, fmt.Errorf("apk: index: %w", d.err)
	}
	return description, entries, nil
}

// open reads a file, checks its signature and returns the database and the blocks
// after the signatures.
func open(r io.Reader, schema string, by *PublicKey) (db, rest []byte, err error) {
	b, err := unpack(r)
	if err != nil {
		return nil, nil, fmt.Errorf("apk: %w", err)
	}
	b, ok := bytes.CutPrefix(b, []byte(magicPlain+schema))
	if !ok {
		return nil, nil, fmt.Errorf("apk: the file does not begin with %s%s", magicPlain, schema)
	}
	kind, db, rest, err := nextBlock(b)
	if err != nil || kind != blockADB || len(db) < rootSize {
		return nil, nil, errors.Join(errors.New("apk: no database comes first"), err)
	}
	if binary.LittleEndian.Uint32(db) != 0 {
		return nil, nil, errors.New("apk: a database of another version")
	}
	var verr error = SignedError{errors.New("apk: not signed")}
	for len(rest) > 0 {
		kind, sig, more, err := nextBlock(rest)
		if err != nil {
			return nil, nil, fmt.Errorf("apk: %w", err)
		}
		if kind != blockSig {
			break
		}
		rest = more
		if by != nil && verr != nil {
			if verr = by.verify(schema, db, sig); verr != nil {
				verr = SignedError{fmt.Errorf("apk: %w", verr)}
			}
		}
	}
	if by == nil {
		verr = nil
	}
	return db, rest, verr
}

// unpack takes the compression off.
func unpack(r io.Reader) ([]byte, error) {
	var magic [4]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil {
		return nil, err
	}
	switch string(magic[:]) {
	case magicPlain:
		r = io.MultiReader(bytes.NewReader(magic[:]), r)
	case magicDeflate:
		r = flate.NewReader(r)
	default:
		return nil, fmt.Errorf("begins with %q", magic)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("more than %d bytes", maxFile)
	}
	return b, err
}

func nextBlock(b []byte) (kind uint32, content, rest []byte, err error) {
	if len(b) < 4 {
		return 0, nil, nil, errors.New("a cut block")
	}
	head := binary.LittleEndian.Uint32(b)
	size := int(head & (1<<30 - 1))
	padded := (size + 7) &^ 7
	if size < 4 || padded > len(b) {
		return 0, nil, nil, fmt.Errorf("a block of %d bytes, where %d are left", size, len(b))
	}
	return head >> 30, b[4:size], b[padded:], nil
}

// readDirs reads the tree, and from the blocks the files in it.
func (p *Package) readDirs(d *decoder, v value, blocks []byte) (rest []byte, err error) {
	for i, dir := range d.array(v) {
		o := d.object(dir, dirFiles)
		place := d.text(o[dirName])
		if mode := d.mode(o[dirACL]); mode != 0o755 {
			d.fail("directory %.80q has mode %o", place, mode)
		}
		if place != "" {
			place += "/"
		}
		for n, file := range d.array(o[dirFiles]) {
			o := d.object(file, fileHashes)
			f := packaging.File{Path: place + d.text(o[fileName]), Mode: d.mode(o[fileACL])}
			if size := d.integer(o[fileSize]); size > 0 && d.err == nil {
				if f.Data, blocks, err = nextData(blocks, i+1, n+1); err == nil && uint64(len(f.Data)) != size {
					err = fmt.Errorf("%d bytes of %d", len(f.Data), size)
				}
				if err != nil {
					return nil, fmt.Errorf("file %.80q: %w", f.Path, err)
				}
			}
			if hash := sha256.Sum256(f.Data); !bytes.Equal(hash[:], d.blob(o[fileHashes])) || int64(d.integer(o[fileTime])) != p.Time.Unix() {
				d.fail("file %.80q has another hash or time", f.Path)
			}
			if len(p.Files) == maxFiles {
				d.fail("more than %d files", maxFiles)
			}
			if d.err != nil {
				return nil, nil
			}
			p.Files = append(p.Files, f)
		}
	}
	return blocks, nil
}

// nextData is the content of a file from the block that must be its.
func nextData(blocks []byte, dir, file int) (data, rest []byte, err error) {
	kind, b, rest, err := nextBlock(blocks)
	switch {
	case err != nil:
		return nil, nil, err
	case kind != blockData || len(b) < 8:
		return nil, nil, fmt.Errorf("a block of kind %d in the place of its content", kind)
	case binary.LittleEndian.Uint32(b) != uint32(dir) || binary.LittleEndian.Uint32(b[4:]) != uint32(file):
		return nil, nil, errors.New("the content of another file")
	}
	return b[8:], rest, nil
}

// mode reads an ACL, which must give the file to root.
func (d *decoder) mode(v value) fs.FileMode {
	o := d.object(v, aclGroup)
	if user, group := d.text(o[aclUser]), d.text(o[aclGroup]); user != "root" || group != "root" {
		d.fail("a file of %.20q, %.20q", user, group)
	}
	mode := d.integer(o[aclMode])
	if mode > 0o777 {
		d.fail("mode %o", mode)
	}
	return fs.FileMode(mode)
}

// info reads what packages and indexes have in common.
func (d *decoder) info(v value) (p Package, installed, size int64) {
	o := d.object(v, infoDepends)
	p = Package{
		Name: d.text(o[infoName]), Version: d.text(o[infoVersion]), Description: d.text(o[infoDescription]), Arch: d.text(o[infoArch]),
		License: d.text(o[infoLicense]), Origin: d.text(o[infoOrigin]), Maintainer: d.text(o[infoMaintainer]), URL: d.text(o[infoURL]),
		Time: time.Unix(int64(d.integer(o[infoBuildTime])), 0),
	}
	for _, dep := range d.array(o[infoDepends]) {
		p.Depends = append(p.Depends, d.text(d.object(dep, depName)[depName]))
	}
	installed, size = int64(d.integer(o[infoInstalled])), int64(d.integer(o[infoFileSize]))
	if installed < 0 || size < 0 {
		d.fail("a size that is none")
	}
	return p, installed, size
}
