package apk

import (
	"encoding/binary"
	"fmt"
)

// A decoder reads values of a database. It keeps the first error, after which
// everything is zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
}

func (d *decoder) root() value { return value(binary.LittleEndian.Uint32(d.b[rootSize-4:])) }

// at is n bytes at a place.
func (d *decoder) at(place uint64, n uint64) []byte {
	if d.err != nil || place < rootSize || place+n > uint64(len(d.b)) {
		d.fail("%d bytes at %d of %d", n, place, len(d.b))
		return make([]byte, n&0xffff)
	}
	return d.b[place : place+n]
}

func (d *decoder) integer(v value) uint64 {
	place := uint64(v & valueMask)
	switch v & kindMask {
	case kindInt:
		return place
	case kindInt32:
		return uint64(binary.LittleEndian.Uint32(d.at(place, 4)))
	case kindInt64:
		return binary.LittleEndian.Uint64(d.at(place, 8))
	}
	if v != null {
		d.fail("value %#x is no number", uint32(v))
	}
	return 0
}

func (d *decoder) text(v value) string { return string(d.blob(v)) }

func (d *decoder) blob(v value) []byte {
	place := uint64(v & valueMask)
	var head, n uint64
	switch v & kindMask {
	case kindBlob8:
		head, n = 1, uint64(d.at(place, 1)[0])
	case kindBlob16:
		head, n = 2, uint64(binary.LittleEndian.Uint16(d.at(place, 2)))
	case kindBlob32:
		head, n = 4, uint64(binary.LittleEndian.Uint32(d.at(place, 4)))
	default:
		if v != null {
			d.fail("value %#x is no text", uint32(v))
		}
		return nil
	}
	if d.err != nil {
		return nil
	}
	if place%head != 0 {
		d.fail("a text at %d", place)
	}
	return d.at(place+head, n)
}

// object returns fields by their numbers, up to last, as there may be fewer. More
// is an error.
func (d *decoder) object(v value, last int) []value {
	fields := make([]value, last+1)
	values := d.list(v, kindObject)
	if len(values) > last {
		d.fail("an object of %d fields, known are %d", len(values), last)
		return fields
	}
	copy(fields[1:], values)
	return fields
}

func (d *decoder) array(v value) []value { return d.list(v, kindArray) }

func (d *decoder) list(v value, kind value) []value {
	if v == null {
		return nil
	}
	if v&kindMask != kind {
		d.fail("value %#x is of another kind than %#x", uint32(v), uint32(kind))
		return nil
	}
	place := uint64(v & valueMask)
	n := uint64(binary.LittleEndian.Uint32(d.at(place, 4)))
	if d.err == nil && (n < 1 || n > maxEntries || place%4 != 0) {
		d.fail("a list of %d at %d", n, place)
	}
	if d.err != nil {
		return nil
	}
	b := d.at(place, 4*n)
	if d.err != nil {
		return nil
	}
	values := make([]value, n-1)
	for i := range values {
		values[i] = value(binary.LittleEndian.Uint32(b[4*i+4:]))
	}
	return values
}
