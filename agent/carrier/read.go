package carrier

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of what is read: a whole routing table is about 500,000 ranges of 60
// bytes, and of 90,000 networks.
const (
	maxFile     = 512 << 20 // unpacked
	maxRanges   = 4 << 20
	maxNetworks = 1 << 20
	maxLine     = 4 << 10
	maxName     = 100
)

// Read reads files of ranges of addresses, packed by gzip or not. A file's
// lines are of one of these kinds, by how many fields they have:
//
//	first TAB last TAB AS TAB country TAB name    iptoasn.com, ip2asn-*.tsv.gz
//	first,last,AS,name                            ip-location-db, asn-ipv4.csv and the like
//	first,last,country                            ip-location-db, asn-country-ipv4.csv and the like
//
// Fields are parted by tabs, or by commas with quotes as in RFC 4180. Files add
// up: a network without a country has that of the range in a file of
// countries. Addresses of which two lines say different things belong to
// nobody. Errors name the file and the line.
func Read(paths ...string) (*Networks, error) {
	r := reader{networks: make(map[Network]uint32), countries: make(map[string]uint32)}
	for _, path := range paths {
		if err := r.file(path); err != nil {
			return nil, fmt.Errorf("networks: %s: %w", path, err)
		}
	}
	n := &r.out
	for _, each := range []*ranges{&n.four, &n.six, &n.whereFour, &n.whereSix} {
		each.arrange()
	}
	if n.Len() == 0 {
		return nil, fmt.Errorf("networks: %s: no range of addresses with the number of its network", strings.Join(paths, ", "))
	}
	n.known = slices.Clip(n.known)
	return n, nil
}

// Files are a table's files, which another program may replace.
type Files struct {
	paths []string
	state []stamp
}

// A stamp tells whether a file is another than before.
type stamp struct {
	written time.Time
	size    int64
}

// Open reads files as [Read] does.
func Open(paths ...string) (*Files, *Networks, error) {
	f := &Files{paths: paths}
	n, err := f.Changed()
	return f, n, err
}

// Changed reads the files again if one of them has changed since the last try,
// and returns nil if none has. It is not for concurrent use.
func (f *Files) Changed() (*Networks, error) {
	state := make([]stamp, len(f.paths))
	for i, path := range f.paths {
		info, err := os.Stat(path)
		if err != nil {
			if slices.Equal(state, f.state) {
				return nil, nil // told before
			}
			f.state = state
			return nil, fmt.Errorf("networks: %w", err)
		}
		state[i] = stamp{info.ModTime(), info.Size()}
	}
	if slices.Equal(state, f.state) {
		return nil, nil
	}
	f.state = state
	return Read(f.paths...)
}

// A reader collects what files say.
type reader struct {
	out       Networks
	networks  map[Network]uint32 // their places in out.known
	countries map[string]uint32  // and in out.where
}

func (r *reader) file(path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b := bufio.NewReaderSize(f, 64<<10)
	var in io.Reader = b
	if magic, err := b.Peek(2); err == nil && bytes.Equal(magic, []byte{0x1f, 0x8b}) { // RFC 1952 §2.3.1
		if in, err = gzip.NewReader(b); err != nil {
			return err
		}
	}
	return r.lines(in)
}

// lines reads one file's content.
func (r *reader) lines(in io.Reader) error {
	limited := &io.LimitedReader{R: in, N: maxFile}
	s := bufio.NewScanner(limited)
	s.Buffer(make([]byte, maxLine), maxLine)
	n := 0
	for s.Scan() {
		n++
		if text := s.Text(); text != "" && text[0] != '#' {
			if err := r.line(text); err != nil {
				return fmt.Errorf("line %d: %w", n, err)
			}
		}
	}
	switch {
	case s.Err() != nil:
		return fmt.Errorf("line %d: %w", n+1, s.Err())
	case limited.N == 0:
		return fmt.Errorf("larger than %d MiB", maxFile>>20)
	}
	return nil
}

// fieldsOf splits a line.
func fieldsOf(line string) ([]string, error) {
	switch {
	case strings.Contains(line, "\t"):
		return strings.Split(line, "\t"), nil
	case strings.Contains(line, `"`):
		c := csv.NewReader(strings.NewReader(line))
		c.FieldsPerRecord, c.LazyQuotes = -1, true
		return c.Read()
	}
	return strings.Split(line, ","), nil
}

var errShape = errors.New("want the first and the last address, and then the number of an AS with a name, or with a country and a name, or a country")

func (r *reader) line(text string) error {
	f, err := fieldsOf(text)
	if err != nil {
		return err
	}
	if len(f) < 3 || len(f) > 5 {
		return errShape
	}
	first, err := netip.ParseAddr(f[0])
	if err != nil {
		return errShape
	}
	last, err := netip.ParseAddr(f[1])
	if err != nil || first.Zone() != "" || last.Zone() != "" || first.Is4() != last.Is4() || last.Less(first) {
		return fmt.Errorf("%.40q to %.40q is no range of addresses", f[0], f[1])
	}
	if len(f) == 3 {
		return r.country(first, last, f[2])
	}
	as, err := strconv.ParseUint(f[2], 10, 32)
	if err != nil {
		return fmt.Errorf("%.40q is not the number of an AS", f[2])
	}
	if as == 0 {
		return nil // not routed
	}
	n := Network{AS: uint32(as)}
	if len(f) == 5 {
		if n.Country, err = countryOf(f[3]); err != nil {
			return err
		}
	}
	n.Name = nameOf(f[len(f)-1])
	return r.network(first, last, n)
}

// countryOf takes two letters; what else files say is no country.
func countryOf(s string) (string, error) {
	if len(s) > 16 {
		return "", fmt.Errorf("%.40q is no country", s)
	}
	if len(s) != 2 || strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return "", nil // "None", "ZZ" where nobody knows
	}
	return strings.Clone(s), nil
}

// nameOf makes a name that can be shown: a file's author has no say in how a
// terminal behaves.
func nameOf(s string) string {
	s = strings.ToValidUTF8(s, "")
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 || c >= 0x200b && c <= 0x200f || c >= 0x2028 && c <= 0x202e || c >= 0x2060 && c <= 0x206f || c == 0xfeff {
			return -1
		}
		return c
	}, s)
	if len(s) > maxName {
		s = strings.ToValidUTF8(s[:maxName], "")
	}
	return strings.Clone(strings.TrimSpace(s))
}

func (r *reader) network(first, last netip.Addr, n Network) error {
	i, known := r.networks[n]
	if !known {
		if len(r.out.known) == maxNetworks {
			return fmt.Errorf("more than %d networks", maxNetworks)
		}
		i = uint32(len(r.out.known))
		r.networks[n] = i
		r.out.known = append(r.out.known, n)
	}
	return put(&r.out.four, &r.out.six, first, last, i)
}

func (r *reader) country(first, last netip.Addr, text string) error {
	c, err := countryOf(text)
	if err != nil || c == "" {
		return err
	}
	i, known := r.countries[c]
	if !known {
		i = uint32(len(r.out.where))
		r.countries[c] = i
		r.out.where = append(r.out.where, c)
	}
	return put(&r.out.whereFour, &r.out.whereSix, first, last, i)
}

func put(four, six *ranges, first, last netip.Addr, what uint32) error {
	to := six
	if first.Is4() {
		to = four
	}
	if to.Len() == maxRanges {
		return fmt.Errorf("more than %d ranges", maxRanges)
	}
	to.add(keyOf(first), keyOf(last), what)
	return nil
}
