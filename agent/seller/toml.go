package seller

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of a configuration file.
const (
	maxTOMLSize  = 256 << 10 // bytes
	maxTOMLDepth = 16        // parts of a key, and values within values
)

// unread stands for a float or a date: TOML has them, no key takes one. Whether
// a date is in the calendar is not looked at.
type unread struct{}

// parseTOML reads TOML v1.0.0. Values are string, int64, bool, unread, []any,
// map[string]any for a table and []map[string]any for an array of tables. An
// error names its line and key, in one line, and quotes no value: that may be
// the PIN.
func parseTOML(content []byte) (map[string]any, error) {
	r := &tomlReader{src: strings.TrimPrefix(string(content), "\ufeff"), root: newTable(byHeader)}
	r.at = r.root
	if len(content) > maxTOMLSize {
		return nil, fmt.Errorf("not supported: a file of more than %d bytes", maxTOMLSize)
	}
	if err := r.checkText(); err != nil {
		return nil, err
	}
	for r.skipBlank(); r.pos < len(r.src); r.skipBlank() {
		r.key = nil
		var err error
		if r.accept('[') {
			err = r.header()
		} else {
			err = r.pair(r.at)
		}
		if err != nil {
			return nil, err
		}
		r.skipSpace()
		if c := r.peek(); r.pos < len(r.src) && c != '\n' && c != '\r' && c != '#' {
			return nil, r.fail("nothing but a comment may follow on this line")
		}
	}
	return r.root.values, nil
}

// A tomlTable is a table that the file may still add to; one in braces it may
// not.
type tomlTable struct {
	values map[string]any
	tables map[string]*tomlTable // those of values; of an array, its last
	made   byte
}

// How a table came to be, which decides what may be added to it.
const (
	byPath    = iota // by [table.other]: [table] may follow
	byHeader         // by [table]
	byElement        // by [[table]]: another may follow
	byKey            // by table.key = …: more such keys may follow
)

func newTable(made byte) *tomlTable {
	return &tomlTable{values: map[string]any{}, tables: map[string]*tomlTable{}, made: made}
}

// A tomlReader reads a file from its beginning to the first error.
type tomlReader struct {
	src      string
	pos      int
	root, at *tomlTable // at is what keys are set in
	section  []string   // the key of at
	key      []string   // what an error names
	depth    int        // of values
}

// fail says what is wrong at pos. Digits of keys are masked, as they may be the
// PIN in the wrong place.
func (r *tomlReader) fail(text string) error {
	name := ""
	for i, part := range r.key {
		if i > 0 {
			name += "."
		}
		if part == "" || strings.ContainsFunc(part, func(c rune) bool { return c > 'z' || !isBare(byte(c)) }) {
			part = strconv.QuoteToASCII(part)
		}
		name += part
	}
	name = strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' {
			return '#'
		}
		return c
	}, name)
	if name != "" {
		text = fmt.Sprintf("%.60s: %s", name, text)
	}
	return fmt.Errorf("line %d: %s", 1+strings.Count(r.src[:r.pos], "\n"), text)
}

// checkText refuses what may stand nowhere in a file.
func (r *tomlReader) checkText() error {
	for r.pos < len(r.src) {
		c, n := utf8.DecodeRuneInString(r.src[r.pos:])
		switch {
		case c == utf8.RuneError && n == 1:
			return r.fail("not UTF-8")
		case c == '\r' && strings.HasPrefix(r.src[r.pos:], "\r\n"), c == '\t', c == '\n':
		case c < ' ' || c == 0x7f:
			return r.fail(fmt.Sprintf("a control character, %U", c))
		}
		r.pos += n
	}
	r.pos = 0
	return nil
}

// peek returns the next byte, 0 at the end.
func (r *tomlReader) peek() byte {
	if r.pos == len(r.src) {
		return 0
	}
	return r.src[r.pos]
}

func (r *tomlReader) accept(c byte) bool {
	if r.peek() != c {
		return false
	}
	r.pos++
	return true
}

func (r *tomlReader) skip(set string) {
	r.pos = len(r.src) - len(strings.TrimLeft(r.src[r.pos:], set))
}

func (r *tomlReader) skipSpace() { r.skip(" \t") }

// skipBlank skips comments and the ends of lines too.
func (r *tomlReader) skipBlank() {
	for r.skip(" \t\r\n"); r.peek() == '#'; r.skip(" \t\r\n") {
		n := strings.IndexByte(r.src[r.pos:], '\n')
		if n < 0 {
			n = len(r.src) - r.pos
		}
		r.pos += n
	}
}

const twice = "it is there twice, or stands for two things"

// header reads what follows "[".
func (r *tomlReader) header() error {
	array := r.accept('[')
	key, err := r.path()
	if err != nil {
		return err
	}
	r.key = key
	if !r.accept(']') || array && !r.accept(']') {
		return r.fail("']' is missing")
	}
	parent, name, err := r.descend(r.root, byPath)
	if err != nil {
		return err
	}
	r.at, r.section = parent.tables[name], key
	switch {
	case array && (parent.values[name] == nil || r.at != nil && r.at.made == byElement):
		list, _ := parent.values[name].([]map[string]any)
		r.at = newTable(byElement)
		parent.tables[name], parent.values[name] = r.at, append(list, r.at.values)
	case array:
		return r.fail(twice)
	case parent.values[name] == nil:
		r.at = parent.add(name, byHeader)
	case r.at != nil && r.at.made == byPath:
		r.at.made = byHeader
	default:
		return r.fail(twice)
	}
	return nil
}

func (t *tomlTable) add(name string, made byte) *tomlTable {
	inner := newTable(made)
	t.tables[name], t.values[name] = inner, inner.values
	return inner
}

// descend returns the table in which the last part of r.key is, and that part.
// What is not there yet is made. The parts before t are the section's.
func (r *tomlReader) descend(t *tomlTable, made byte) (*tomlTable, string, error) {
	parts := r.key
	if made == byKey {
		parts = r.key[len(r.section):]
	}
	last := len(parts) - 1
	for _, name := range parts[:last] {
		inner := t.tables[name]
		switch {
		case inner == nil && t.values[name] != nil, made == byKey && inner != nil && (inner.made == byHeader || inner.made == byElement):
			return nil, "", r.fail(twice)
		case inner == nil:
			inner = t.add(name, made)
		case made == byKey:
			inner.made = byKey
		}
		t = inner
	}
	return t, parts[last], nil
}

// pair reads a key and its value into a table.
func (r *tomlReader) pair(t *tomlTable) error {
	key, err := r.path()
	if err != nil {
		return err
	}
	r.key = slices.Concat(r.section, key)
	if !r.accept('=') {
		return r.fail("'=' is missing")
	}
	t, name, err := r.descend(t, byKey)
	if err != nil {
		return err
	}
	if t.values[name] != nil {
		return r.fail(twice)
	}
	t.values[name], err = r.value()
	return err
}

func isBare(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || isDigit(c) || c == '_' || c == '-'
}

// path reads a key, and the space round it.
func (r *tomlReader) path() ([]string, error) {
	var key []string
	for {
		r.skipSpace()
		start, part := r.pos, ""
		if c := r.peek(); c == '"' || c == '\'' {
			var err error
			if part, err = r.text(1); err != nil {
				return nil, err
			}
		} else {
			for isBare(r.peek()) {
				r.pos++
			}
			if part = r.src[start:r.pos]; part == "" {
				return nil, r.fail("a key is missing")
			}
		}
		if key = append(key, part); len(key) > maxTOMLDepth {
			return nil, r.fail(fmt.Sprintf("not supported: a key of more than %d parts", maxTOMLDepth))
		}
		r.skipSpace()
		if !r.accept('.') {
			return key, nil
		}
	}
}

func (r *tomlReader) value() (any, error) {
	if r.depth++; r.depth > maxTOMLDepth {
		return nil, r.fail(fmt.Sprintf("not supported: values in values, more than %d deep", maxTOMLDepth))
	}
	defer func() { r.depth-- }()
	r.skipSpace()
	switch c := r.peek(); {
	case c == '[':
		r.pos++
		return r.array()
	case c == '{':
		r.pos++
		return r.inline()
	case c != '"' && c != '\'':
		return r.word()
	case strings.HasPrefix(r.src[r.pos+1:], string([]byte{c, c})):
		return r.text(3)
	}
	return r.text(1)
}

func (r *tomlReader) array() (any, error) {
	list := []any{}
	for {
		if r.skipBlank(); r.accept(']') {
			return list, nil
		}
		v, err := r.value()
		if err != nil {
			return nil, err
		}
		list = append(list, v)
		if r.skipBlank(); !r.accept(',') && r.peek() != ']' {
			return nil, r.fail("',' or ']' is missing")
		}
	}
}

// inline reads a table in braces, which stands on one line.
func (r *tomlReader) inline() (any, error) {
	key, section := r.key, r.section
	defer func() { r.key, r.section = key, section }()
	r.section = key
	t := newTable(byKey)
	if r.skipSpace(); r.accept('}') {
		return t.values, nil
	}
	for {
		if err := r.pair(t); err != nil {
			return nil, err
		}
		if r.skipSpace(); r.accept('}') {
			return t.values, nil
		}
		if r.key = key; !r.accept(',') {
			return nil, r.fail("',' or '}' is missing, on the same line")
		}
	}
}
