package seller

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// text reads a string in that many quotes at each end.
func (r *tomlReader) text(quotes int) (string, error) {
	start, quote := r.pos, r.peek()
	r.pos += quotes
	if quotes == 3 {
		r.accept('\r')
		r.accept('\n')
	}
	var b []byte
	for r.pos < len(r.src) {
		c := r.peek()
		switch {
		case c == quote:
			n := 1
			for n < 6 && quotes == 3 && strings.HasPrefix(r.src[r.pos+n:], string(quote)) {
				n++
			}
			if r.pos += n; n < quotes {
				b = append(b, r.src[r.pos-n:r.pos]...)
				continue
			}
			if n > 5 { // two may stand before the three that end it
				return "", r.fail("more than 5 quotes in a row")
			}
			return string(append(b, r.src[r.pos-n:r.pos-quotes]...)), nil
		case c == '\n' && quotes == 1:
			return "", r.fail("a quote is missing: the line ends before")
		case c == '\\' && quote == '"':
			var err error
			if b, err = r.escape(b, quotes); err != nil {
				return "", err
			}
		default:
			b = append(b, c)
			r.pos++
		}
	}
	r.pos = start
	return "", r.fail("the quotes at its end are missing")
}

// escape appends what a backslash and what follows stand for.
func (r *tomlReader) escape(b []byte, quotes int) ([]byte, error) {
	r.pos++
	c, digits := r.peek(), 0
	if i := strings.IndexByte(`btnfr"\`, c); i >= 0 {
		r.pos++
		return append(b, "\b\t\n\f\r\"\\"[i]), nil
	}
	switch {
	case c == 'u':
		digits = 4
	case c == 'U':
		digits = 8
	case quotes == 3: // the end of a line, with all that is blank after it
		if r.skipSpace(); r.peek() == '\n' || r.peek() == '\r' {
			r.skip(" \t\r\n")
			return b, nil
		}
	}
	if end := r.pos + 1 + digits; digits > 0 && end <= len(r.src) {
		n, err := strconv.ParseUint(r.src[r.pos+1:end], 16, 32)
		if err == nil && utf8.ValidRune(rune(n)) {
			r.pos = end
			return utf8.AppendRune(b, rune(n)), nil
		}
	}
	return nil, r.fail(`a backslash and what follows mean nothing: write \\, or put the text into single quotes`)
}

// word reads a value that has no delimiters.
func (r *tomlReader) word() (any, error) {
	start := r.pos
	r.skipWord()
	s := r.src[start:r.pos]
	if rest := r.src[r.pos:]; len(s) == 10 && isDate(s) && len(rest) > 1 && rest[0] == ' ' && isDigit(rest[1]) {
		r.pos++ // a date and a time
		r.skipWord()
	}
	switch s {
	case "":
		return nil, r.fail("a value is missing: a number, true, false, or text in quotes")
	case "true", "false":
		return s == "true", nil
	}
	// ParseInt takes all that TOML does, and 0X1, +0x1, 0x_1, 01 and 0_1.
	n, err := strconv.ParseInt(s, 0, 64)
	based := len(s) > 2 && s[0] == '0' && strings.IndexByte("box", s[1]) >= 0 && s[2] != '_'
	unsigned := s
	if s[0] == '+' || s[0] == '-' {
		unsigned = s[1:]
	}
	switch {
	case err == nil && (based || len(unsigned) == 1 || unsigned[0] != '0'):
		return n, nil
	case isDate(s), isTime(s), unsigned == "inf", unsigned == "nan":
		return unread{}, nil
	case len(unsigned) > 1 && unsigned[0] == '0' && (isDigit(unsigned[1]) || unsigned[1] == '_'):
		return nil, r.fail("a number has no zeros before it; text, also of digits, stands in quotes")
	case isFloat(unsigned):
		return unread{}, nil
	}
	return nil, r.fail("not a value: text stands in quotes")
}

func (r *tomlReader) skipWord() {
	for c := r.peek(); isBare(c) || c == '+' || c == '.' || c == ':'; c = r.peek() {
		r.pos++
	}
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// isFloat says whether s is digits with a fraction, an exponent or both. Zeros
// before it are taken.
func isFloat(s string) bool {
	whole, exponent, scaled := strings.Cut(strings.ReplaceAll(s, "E", "e"), "e")
	whole, fraction, broken := strings.Cut(whole, ".")
	if exponent != "" && (exponent[0] == '+' || exponent[0] == '-') {
		exponent = exponent[1:]
	}
	return (scaled || broken) && isDigits(whole) && (!broken || isDigits(fraction)) && (!scaled || isDigits(exponent))
}

// isDigits says whether s is digits, and underscores between them.
func isDigits(s string) bool {
	for i := range len(s) {
		if !isDigit(s[i]) && (s[i] != '_' || i == 0 || i == len(s)-1 || s[i-1] == '_') {
			return false
		}
	}
	return s != ""
}

// isDate says whether s begins like 2026-11-28.
func isDate(s string) bool { return like(s, "0000-00-00") }

// isTime says whether s begins like 23:59.
func isTime(s string) bool { return like(s, "00:00") }

// like says whether s begins with a digit for each 0, and otherwise as form.
func like(s, form string) bool {
	if len(s) < len(form) {
		return false
	}
	for i := range form {
		if c := s[i]; c != form[i] && (form[i] != '0' || !isDigit(c)) {
			return false
		}
	}
	return true
}
