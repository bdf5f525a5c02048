package gateway

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/depinsim/x402/agent/buyer"
)

// A choice is what a customer says of the exit that he wants: in the user name,
// as the trade does it, or when he buys.
//
//	TOKEN-country-de-carrier-telekom-tech-5g-session-a1-rotate-10
//
// Each word stands once at most, in any order. Without a session every
// connection leaves by an exit of its own choosing.
type choice struct {
	Country string // ISO 3166-1 alpha-2
	Carrier string // part of the operator's name, or MCC and MNC
	Tech    string // such as LTE or 5G
	Session string // connections of one session leave by one exit
	// Rotate is how long a session stays with its exit, if others would do; 0:
	// as long as it is used.
	Rotate time.Duration
}

// Bounds of what is chosen.
const (
	maxUser    = 255 // RFC 1929 section 2
	maxWord    = 40
	maxSession = 32
	maxRotate  = 24 * 60 // minutes
)

// parseUser reads a user name: the token, and what is chosen.
func parseUser(user string) (token string, c choice, err error) {
	if len(user) > maxUser {
		return "", c, errors.New("the user name is too long")
	}
	words := strings.Split(user, "-")
	token = words[0]
	if len(words)%2 == 0 {
		return "", c, fmt.Errorf("the user name ends with %.40q and no value: want TOKEN-country-de-session-a1", words[len(words)-1])
	}
	seen := map[string]bool{}
	for i := 1; i < len(words); i += 2 {
		key := strings.ToLower(words[i])
		if seen[key] {
			return "", c, fmt.Errorf("the user name has %.40q twice", key)
		}
		seen[key] = true
		if err := c.set(key, words[i+1]); err != nil {
			return "", c, fmt.Errorf("the user name: %w", err)
		}
	}
	return token, c, c.check()
}

// set takes one word of a user name.
func (c *choice) set(key, value string) error {
	switch key {
	case "country":
		c.Country = strings.ToUpper(value)
	case "carrier":
		c.Carrier = strings.ReplaceAll(value, "_", " ") // a space is nothing for a user name
	case "tech":
		c.Tech = value
	case "session":
		c.Session = value
	case "rotate":
		n, err := strconv.ParseUint(value, 10, 16)
		if err != nil || n == 0 || n > maxRotate {
			return fmt.Errorf("rotate: %.40q, want minutes from 1 to %d", value, maxRotate)
		}
		c.Rotate = time.Duration(n) * time.Minute
	default:
		return fmt.Errorf("%.40q means nothing: there are country, carrier, tech, session and rotate", key)
	}
	if value == "" {
		return fmt.Errorf("%s is empty", key)
	}
	return nil
}

// check refuses what cannot be meant.
func (c choice) check() error {
	switch {
	case c.Country != "" && (len(c.Country) != 2 || !allOf(c.Country, isLetter)):
		return fmt.Errorf("country: %.40q, want two letters such as de", c.Country)
	case len(c.Carrier) > maxWord || !allOf(c.Carrier, isPrint):
		return fmt.Errorf("carrier: want at most %d printable characters", maxWord)
	case len(c.Tech) > maxWord || !allOf(c.Tech, isPrint):
		return fmt.Errorf("tech: want at most %d printable characters", maxWord)
	case len(c.Session) > maxSession || !allOf(c.Session, isWord):
		return fmt.Errorf("session: want at most %d letters and digits", maxSession)
	case c.Rotate != 0 && c.Session == "":
		return errors.New("rotate is for a session: name one, or leave both out, and every connection leaves by an exit of its own")
	}
	return nil
}

func allOf(s string, is func(byte) bool) bool {
	for i := range len(s) {
		if !is(s[i]) {
			return false
		}
	}
	return true
}

func isLetter(b byte) bool { return b|0x20 >= 'a' && b|0x20 <= 'z' }
func isWord(b byte) bool   { return isLetter(b) || b >= '0' && b <= '9' || b == '_' }
func isPrint(b byte) bool  { return b >= ' ' && b <= '~' }

// want is the choice in the words of the market, without a price.
func (c choice) want() buyer.Want {
	return buyer.Want{Country: c.Country, Carrier: c.Carrier, Technology: c.Tech}
}

// or is c, with what d says where c says nothing.
func (c choice) or(d choice) choice {
	if c.Country == "" && c.Carrier == "" { // a carrier has its country
		c.Country = d.Country
	}
	if c.Carrier == "" && (c.Country == d.Country || c.Country == "") {
		c.Carrier = d.Carrier
	}
	if c.Tech == "" {
		c.Tech = d.Tech
	}
	return c
}
