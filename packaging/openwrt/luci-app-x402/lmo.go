package luci

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// A row says where a text is in a compiled catalog.
type row struct{ key, kind, at, size uint32 }

// Compile writes a catalog in the format that LuCI loads, LMO: the texts, each
// filled up to four bytes; a row of four big-endian numbers for each, in the order
// of their keys, which are hashes of what is translated; and where the rows begin.
// The rule for plurals has the key 0. What is not translated is left out.
func Compile(all []Message) []byte {
	var b []byte
	var rows []row
	add := func(key, kind uint32, text string) {
		rows = append(rows, row{key, kind, uint32(len(b)), uint32(len(text))})
		b = append(b, text...)
		b = append(b, make([]byte, -len(b)&3)...)
	}
	if rule := header(all, "Plural-Forms"); rule != "" {
		add(0, 0, rule)
	}
	for _, m := range all {
		if m.ID != "" && m.Text != "" && m.ID != m.Text {
			add(hash(m.ID), 1, m.Text)
		}
	}
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(a.key, b.key) })
	begin := uint32(len(b))
	for _, r := range rows {
		for _, n := range []uint32{r.key, r.kind, r.at, r.size} {
			b = binary.BigEndian.AppendUint32(b, n)
		}
	}
	return binary.BigEndian.AppendUint32(b, begin)
}

// hash is Paul Hsieh's SuperFastHash, begun with the length, as LuCI's pages and
// its server have it. The last byte of a text that does not fill four is signed.
func hash(s string) uint32 {
	h, rest := uint32(len(s)), []byte(s)
	for ; len(rest) >= 4; rest = rest[4:] {
		h += uint32(binary.LittleEndian.Uint16(rest))
		h = h<<16 ^ uint32(binary.LittleEndian.Uint16(rest[2:]))<<11 ^ h
		h += h >> 11
	}
	switch len(rest) {
	case 3:
		h += uint32(binary.LittleEndian.Uint16(rest))
		h ^= h << 16
		h ^= uint32(int8(rest[2])) << 18
		h += h >> 11
	case 2:
		h += uint32(binary.LittleEndian.Uint16(rest))
		h ^= h << 11
		h += h >> 17
	case 1:
		h += uint32(int8(rest[0]))
		h ^= h << 10
		h += h >> 1
	}
	h ^= h << 3
	h += h >> 5
	h ^= h << 4
	h += h >> 17
	h ^= h << 25
	h += h >> 6
	return h
}
