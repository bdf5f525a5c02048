package plan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// A record is a magic number with a version, which of all records it is, whose
// it is, the state, and a CRC-32C of all that; all integers big-endian. Records
// have one size, and one place in the file each.
const (
	recordMagic = "pln1"
	recordWords = 40
	recordSize  = len(recordMagic) + 8 + 16 + 16 + 1 + 4 + recordWords*8 + 4
)

// castagnoli is made once; crc32 keeps its own tables from then on.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errNoRecord says that there is none: the place is new, or a power cut tore it.
var errNoRecord = errors.New("plan: no record")

// A simKey names a SIM in the file.
type simKey [16]byte

// A record is the state of a SIM as it was stored: the newest of the file has
// the highest number.
type record struct {
	number uint64
	sim    simKey
	state  State
}

// flags are the state's, by their bit.
func (s *State) flags() []*bool {
	return []*bool{&s.Known, &s.Anchored, &s.Seen, &s.Trial, &s.Unadmitted, &s.Link.Framed}
}

// words gives each number of a state to f, which may change it.
func (s *State) words(f func(*uint64)) {
	signed := func(list ...*int64) {
		for _, p := range list {
			v := uint64(*p)
			f(&v)
			*p = int64(v)
		}
	}
	lasting := func(list ...*time.Duration) {
		for _, p := range list {
			v := uint64(*p)
			f(&v)
			*p = time.Duration(v)
		}
	}
	signed(&s.Time, &s.Latest, &s.Start, &s.End, &s.High, &s.EntryOn, &s.Day.End, &s.Hour.End)
	lasting(&s.Up, &s.Lived, &s.Day.Lived, &s.Hour.Lived)
	for _, p := range []*uint64{
		&s.Link.RxBytes, &s.Link.TxBytes, &s.Link.RxPackets, &s.Link.TxPackets,
		&s.Entered, &s.EntryKey, &s.Since, &s.Before, &s.Loose, &s.LooseSold,
		&s.Household, &s.Sales, &s.Overhead, &s.Unseen,
		&s.Day.Sold, &s.Day.Household, &s.Hour.Sold, &s.Ratio, &s.Claim, &s.Total, &s.Ahead,
	} {
		f(p)
	}
	for i := range s.Days {
		f(&s.Days[i])
	}
}

// append encodes r.
func (r record) append(b []byte) []byte {
	start := len(b)
	b = append(b, recordMagic...)
	b = binary.BigEndian.AppendUint64(b, r.number)
	b = append(b, r.sim[:]...)
	b = append(b, r.state.Boot[:]...)
	var flags byte
	for i, f := range r.state.flags() {
		if *f {
			flags |= 1 << i
		}
	}
	b = append(b, flags)
	b = binary.BigEndian.AppendUint32(b, r.state.Link.Index)
	r.state.words(func(v *uint64) { b = binary.BigEndian.AppendUint64(b, *v) })
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

// parseRecord decodes the record at the start of b.
func parseRecord(b []byte) (r record, err error) {
	n := recordSize - 4
	if len(b) < recordSize || string(b[:4]) != recordMagic || crc32.Checksum(b[:n], castagnoli) != binary.BigEndian.Uint32(b[n:]) {
		return r, errNoRecord
	}
	b = b[4:n]
	r.number, b = binary.BigEndian.Uint64(b), b[8:]
	b = b[copy(r.sim[:], b):]
	s := &r.state
	b = b[copy(s.Boot[:], b):]
	flags := s.flags()
	if b[0]>>len(flags) != 0 {
		return record{}, fmt.Errorf("plan: record with flags %#x, of a newer program", b[0])
	}
	for i, f := range flags {
		*f = b[0]>>i&1 == 1
	}
	s.Link.Index, b = binary.BigEndian.Uint32(b[1:]), b[5:]
	s.words(func(v *uint64) { *v, b = binary.BigEndian.Uint64(b), b[8:] })
	if !s.sound() {
		return record{}, errors.New("plan: a record's numbers do not fit together")
	}
	s.saved, s.loaded = s.Total, true
	return r, nil
}

// farthest bounds times, far from where sums of them overflow.
const farthest = int64(1 << 62)

// sound says whether a state can be one of ours.
func (s State) sound() bool {
	for _, t := range []int64{s.Time, s.Latest, int64(s.Up), int64(s.Lived), int64(s.Day.Lived), int64(s.Hour.Lived)} {
		if t < 0 || t > farthest {
			return false
		}
	}
	for _, t := range []int64{s.Start, s.End, s.High, s.EntryOn, s.Day.End, s.Hour.End} {
		if t < -farthest/int64(time.Second) || t > farthest/int64(time.Second) {
			return false
		}
	}
	return s.Start <= s.End && s.Ratio >= minRatio && s.Ratio <= maxRatio && s.Claim <= maxClaim
}
