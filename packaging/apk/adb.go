package apk

import (
	"encoding/binary"
)

// Kinds of a value: its upper four bits. The others are the value itself, or
// where it is, counted from the start of the block.
const (
	kindSpecial = 0x0 << 28
	kindInt     = 0x1 << 28
	kindInt32   = 0x2 << 28
	kindInt64   = 0x3 << 28
	kindBlob8   = 0x8 << 28
	kindBlob16  = 0x9 << 28
	kindBlob32  = 0xa << 28
	kindArray   = 0xd << 28
	kindObject  = 0xe << 28

	kindMask  = 0xf << 28
	valueMask = 1<<28 - 1

	null value = 0 // of every kind that is not there
)

// A value is a word of a database.
type value uint32

// rootSize is the size of a block's head: two bytes of version, two of nothing,
// and the root value.
const rootSize = 8

// A builder writes the tree of values that a database is, leaves first. What is
// written twice is there once.
type builder struct {
	b    []byte
	seen map[string]uint32 // where bytes are, by what they are and how they are aligned
}

func newBuilder() *builder { return &builder{make([]byte, rootSize), map[string]uint32{}} }

// put places bytes at a multiple of align.
func (w *builder) put(b []byte, align int) uint32 {
	key := string(rune('0'+align)) + string(b)
	if at, ok := w.seen[key]; ok {
		return at
	}
	at := w.place(b, align)
	w.seen[key] = at
	return at
}

func (w *builder) place(b []byte, align int) uint32 {
	for len(w.b)%align != 0 {
		w.b = append(w.b, 0)
	}
	at := uint32(len(w.b))
	w.b = append(w.b, b...)
	return at
}

func (w *builder) integer(n uint64) value {
	switch {
	case n <= valueMask:
		return kindInt | value(n)
	case n < 1<<32:
		return kindInt32 | value(w.put(binary.LittleEndian.AppendUint32(nil, uint32(n)), 4))
	}
	return kindInt64 | value(w.put(binary.LittleEndian.AppendUint64(nil, n), 8))
}

func (w *builder) text(s string) value { return w.blob([]byte(s)) }

func (w *builder) blob(b []byte) value {
	if len(b) == 0 {
		return null
	}
	kind, align, b := sized(b)
	return kind | value(w.put(b, align))
}

// ownBlob is a blob that nothing else shares, so that it may be filled in later;
// at is where its content is.
func (w *builder) ownBlob(b []byte) (v value, at int) {
	kind, align, sizedBytes := sized(b)
	place := w.place(sizedBytes, align)
	return kind | value(place), int(place) + len(sizedBytes) - len(b)
}

// sized puts a blob's length before it.
func sized(b []byte) (kind value, align int, out []byte) {
	switch n := len(b); {
	case n < 1<<8:
		return kindBlob8, 1, append([]byte{byte(n)}, b...)
	case n < 1<<16:
		return kindBlob16, 2, append(binary.LittleEndian.AppendUint16(nil, uint16(n)), b...)
	default:
		return kindBlob32, 4, append(binary.LittleEndian.AppendUint32(nil, uint32(n)), b...)
	}
}

// object has fields by their numbers, which begin with 1. What is null at its end
// is left out, and an object of nothing is null.
func (w *builder) object(fields map[int]value) value {
	last := 0
	for n, v := range fields {
		if v != null {
			last = max(last, n)
		}
	}
	values := make([]value, last)
	for n, v := range fields {
		if n <= last {
			values[n-1] = v
		}
	}
	return w.list(kindObject, values)
}

func (w *builder) array(values []value) value { return w.list(kindArray, values) }

// list is a word that says how many there are, itself included, and the values.
func (w *builder) list(kind value, values []value) value {
	if len(values) == 0 {
		return null
	}
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(values)+1))
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, uint32(v))
	}
	return kind | value(w.put(b, 4))
}

// finish is the block of the database with a root.
func (w *builder) finish(root value) []byte {
	binary.LittleEndian.PutUint32(w.b[rootSize-4:], uint32(root))
	return w.b
}
