package modem

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"unicode/utf8"
)

// An IMSI is the subscriber's number of a SIM (ITU-T E.212): a country code
// (MCC), a network code (MNC) and the subscriber. It prints as imsi(redacted)
// in every way there is; Digits is the only way out. The digits are behind a
// pointer, since fmt prints the unexported fields of a struct that holds an
// IMSI without asking its methods.
type IMSI struct {
	digits    *string
	mncLength int
}

const redactedIMSI = "imsi(redacted)"

// ParseIMSI takes 6 to 15 digits; mncLength is 2 or 3, and nothing else is
// right: a network code of the wrong length names another network.
func ParseIMSI(digits string, mncLength int) (IMSI, error) {
	switch {
	case !isDigits(digits) || len(digits) < 6 || len(digits) > 15:
		return IMSI{}, errors.New("imsi: want 6 to 15 digits")
	case mncLength != 2 && mncLength != 3:
		return IMSI{}, errors.New("imsi: network codes have 2 or 3 digits")
	}
	return IMSI{digits: &digits, mncLength: mncLength}, nil
}

// Digits returns the number itself, "" for the zero IMSI. It must not be
// logged, stored in clear or sent.
func (i IMSI) Digits() string {
	if i.digits == nil {
		return ""
	}
	return *i.digits
}

// MCC returns the three digits of the country, "" for the zero IMSI.
func (i IMSI) MCC() string {
	if i.digits == nil {
		return ""
	}
	return (*i.digits)[:3]
}

// MNC returns the two or three digits of the home network, "" for the zero IMSI.
func (i IMSI) MNC() string {
	if i.digits == nil {
		return ""
	}
	return (*i.digits)[3 : 3+i.mncLength]
}

// IsZero says whether no IMSI was read.
func (i IMSI) IsZero() bool { return i.digits == nil }

// Equal says whether both are the same number; == compares pointers.
func (i IMSI) Equal(other IMSI) bool { return i.Digits() == other.Digits() }

// leastSecret is how many digits behind MCC and MNC are taken for the number
// when they stand alone; fewer could be anything.
const leastSecret = 6

// secret is the number, or the part of it that tells subscribers apart.
func (i IMSI) secret() string {
	secret := i.Digits()
	if subscriber := secret[len(i.MCC())+len(i.MNC()):]; len(subscriber) >= leastSecret {
		return subscriber
	}
	return secret
}

// In says whether a text holds the number, or the part of it that tells
// subscribers apart.
func (i IMSI) In(text string) bool {
	secret := i.secret()
	return secret != "" && strings.Contains(text, secret)
}

// Redact takes the number out of a text that somebody else wrote, also where
// its digits stand apart.
func (i IMSI) Redact(text string) string {
	secret := i.secret()
	for at := 0; at < len(text) && secret != ""; at++ {
		if n := spelled(text[at:], secret); n > 0 {
			text = text[:at] + redactedIMSI + text[at+n:]
			at += len(redactedIMSI) - 1
		}
	}
	return text
}

// spelled is how much of the text's beginning spells the digits, with one other
// character between two of them at most; 0: it does not.
func spelled(text, digits string) int {
	at := 0
	for n := range len(digits) {
		if r, size := utf8.DecodeRuneInString(text[at:]); n > 0 && (r < '0' || r > '9') {
			at += size
		}
		if at == len(text) || text[at] != digits[n] {
			return 0
		}
		at++
	}
	return at
}

// redactHex does so in a text of hex digits, where the number may be spelled in
// ASCII or in half octets, either of them first.
func (i IMSI) redactHex(text string) string {
	raw, _ := hex.DecodeString(text) // what is none holds none
	swapped := []byte(text)
	for n := 1; n < len(swapped); n += 2 {
		swapped[n-1], swapped[n] = swapped[n], swapped[n-1]
	}
	if i.In(text) || i.In(string(raw)) || i.In(string(swapped)) {
		return redactedIMSI
	}
	return text
}

// hide empties texts that hold the number, as a modem's may that gives late
// answers to other questions. It reports whether there was one.
func (i IMSI) hide(texts ...*string) (found bool) {
	for _, text := range texts {
		if i.In(*text) {
			*text, found = "", true
		}
	}
	return found
}

// Format prints imsi(redacted) whatever the verb and the flags.
func (i IMSI) Format(f fmt.State, _ rune) { io.WriteString(f, redactedIMSI) }

func (i IMSI) String() string               { return redactedIMSI }
func (i IMSI) LogValue() slog.Value         { return slog.StringValue(redactedIMSI) }
func (i IMSI) MarshalText() ([]byte, error) { return []byte(redactedIMSI), nil }

// A PIN unlocks a SIM. It redacts itself as an IMSI does. The zero PIN means
// that there is none.
type PIN struct{ digits *string }

const redactedPIN = "pin(redacted)"

// ParsePIN takes 4 to 8 digits (3GPP TS 31.101 clause 9.5.1).
func ParsePIN(digits string) (PIN, error) {
	if !isDigits(digits) || len(digits) < 4 || len(digits) > 8 {
		return PIN{}, errors.New("pin: want 4 to 8 digits")
	}
	return PIN{digits: &digits}, nil
}

// IsZero says whether there is no PIN.
func (p PIN) IsZero() bool { return p.digits == nil }

// Format prints pin(redacted) whatever the verb and the flags.
func (p PIN) Format(f fmt.State, _ rune) { io.WriteString(f, redactedPIN) }

func (p PIN) String() string               { return redactedPIN }
func (p PIN) LogValue() slog.Value         { return slog.StringValue(redactedPIN) }
func (p PIN) MarshalText() ([]byte, error) { return []byte(redactedPIN), nil }

// isDigits says whether s has digits only, and at least one.
func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
