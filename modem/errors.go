package modem

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/warthog618/modem/at"
)

// What callers branch on. All others are told by their text only.
var (
	// ErrNoSIM says that the modem answers and has no card in it. That is a
	// normal state, not a broken modem.
	ErrNoSIM = errors.New("SIM not inserted")
	// ErrSIMBusy says that the card was not ready within Config.SIMWait.
	ErrSIMBusy = errors.New("SIM busy")
	// ErrPINRequired says that the card wants a PIN and none was sent: there is
	// none in the config, or sending it was not safe. The text says which.
	ErrPINRequired = errors.New("SIM PIN required")
	// ErrPUKRequired says that the card wants its PUK. It is never sent from
	// here: ten wrong ones destroy the card.
	ErrPUKRequired = errors.New("SIM PUK required")
	// ErrPINRefused says that this card has not taken this PIN. The pair is on
	// record and is never sent again.
	ErrPINRefused = errors.New("SIM PIN refused")
	// ErrTimeout says that the modem did not answer in time. The port is closed
	// and opened anew before the next command, so that a late answer is nobody's.
	ErrTimeout = errors.New("timed out")
	// ErrGone says that the port has vanished or the Modem was closed; it Is
	// net.ErrClosed. Done is closed then.
	ErrGone error = goneError{}
	// ErrUnsupported says that this modem cannot do what was asked, or that its
	// maker's commands for it are not known here.
	ErrUnsupported = errors.New("not supported by this modem")
)

// An UnverifiedError says that the modem took a command, and that what was to
// come of it could not be seen: the command may have had its effect or not.
type UnverifiedError struct {
	Op        string // such as "airplane mode on"
	Want, Got string
}

func (e UnverifiedError) Error() string {
	return e.Op + ": not verified: want " + e.Want + ", the modem says " + e.Got
}

type goneError struct{}

func (goneError) Error() string        { return "modem is gone" }
func (goneError) Is(target error) bool { return target == net.ErrClosed }

// errRefused is a bare ERROR, errSilent an OK without the line that was asked
// for. Both may stem from a stray final line of an earlier command, so ask
// tries once more.
var (
	errRefused = errors.New("ERROR")
	errSilent  = errors.New("no such line in the answer")
)

// A CMEError is what a modem says with "+CME ERROR:" (3GPP TS 27.007 clause
// 9.2), by number or by text. It Is ErrNoSIM, ErrPINRequired, ErrPUKRequired,
// ErrPINRefused or ErrSIMBusy where it means that.
type CMEError struct {
	Code int    // -1 when the modem sent a text that is not in the standard
	Text string // the standard's text, or the modem's with its digits hidden
}

// Codes of 3GPP TS 27.007 clause 9.2 that something here depends on, and 515
// of several vendors.
const (
	cmeNotSupported = 4
	cmeNoSIM        = 10
	cmePIN          = 11
	cmePUK          = 12
	cmeFailure      = 13
	cmeBusy         = 14
	cmeWrongSIM     = 15
	cmePassword     = 16
	cmeParameters   = 50
	cmeWait         = 515
)

func (e CMEError) Error() string { return e.Text }

func (e CMEError) Is(target error) bool {
	switch e.Code {
	case cmeNoSIM:
		return target == ErrNoSIM
	case cmePIN:
		return target == ErrPINRequired
	case cmePUK:
		return target == ErrPUKRequired
	case cmePassword:
		return target == ErrPINRefused
	case cmeBusy, cmeWait:
		return target == ErrSIMBusy
	}
	return false
}

// cmeText is the standard's text for a code, "" for those that are not listed.
func cmeText(code int) string {
	switch code {
	case 0:
		return "phone failure"
	case 1:
		return "no connection to phone"
	case 3:
		return "operation not allowed"
	case cmeNotSupported:
		return "operation not supported"
	case 5:
		return "PH-SIM PIN required"
	case cmeNoSIM:
		return "SIM not inserted"
	case cmePIN:
		return "SIM PIN required"
	case cmePUK:
		return "SIM PUK required"
	case cmeFailure:
		return "SIM failure"
	case cmeBusy:
		return "SIM busy"
	case cmeWrongSIM:
		return "SIM wrong"
	case cmePassword:
		return "incorrect password"
	case 17:
		return "SIM PIN2 required"
	case 18:
		return "SIM PUK2 required"
	case 22:
		return "not found"
	case 30:
		return "no network service"
	case 31:
		return "network timeout"
	case 32:
		return "network not allowed - emergency calls only"
	case 40:
		return "network personalization PIN required"
	case cmeParameters:
		return "incorrect parameters"
	case 100:
		return "unknown"
	case cmeWait:
		return "please wait, init or command processing in progress"
	}
	return ""
}

// parseCME reads what follows "+CME ERROR:". Text is matched without regard to
// case, since vendors disagree. A text that is not the standard's is cut, and
// stripped of its digits: errors are logged, and it came from outside.
func parseCME(s string) CMEError {
	s = strings.TrimSpace(s)
	if code, err := strconv.Atoi(s); err == nil && code >= 0 && code < 1<<16 {
		text := cmeText(code)
		if text == "" {
			text = "CME error " + strconv.Itoa(code)
		}
		return CMEError{Code: code, Text: text}
	}
	for code := 0; code <= 100; code++ {
		if text := cmeText(code); text != "" && strings.EqualFold(text, s) {
			return CMEError{Code: code, Text: text}
		}
	}
	return CMEError{Code: -1, Text: "CME error: " + harmless(s)}
}

// harmless makes a modem's own words fit for a message: short, printable
// ASCII, and with no digit in them.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= '0' && r <= '9':
			return '#'
		case r < ' ' || r > '~':
			return -1
		}
		return r
	}, s[:min(len(s), 48)])
}

// fromAT turns an error of the at package into one of ours. Those of the at
// package carry stack traces, which a logger would print.
func fromAT(err error) error {
	if cme, ok := errors.AsType[at.CMEError](err); ok {
		return parseCME(string(cme))
	}
	if cms, ok := errors.AsType[at.CMSError](err); ok {
		return errors.New("CMS error: " + harmless(string(cms)))
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, at.ErrClosed):
		return ErrGone
	case errors.Is(err, at.ErrDeadlineExceeded):
		return ErrTimeout
	case errors.Is(err, at.ErrError):
		return errRefused
	}
	// What is left is a failed write. Its cause is for humans only: net's own
	// errors would answer to the wrong sentinels.
	return fmt.Errorf("%w: %v", ErrGone, err)
}

// soft says whether err is about one command, so that the next may be tried.
func soft(err error) bool {
	_, cme := errors.AsType[CMEError](err)
	return cme || errors.Is(err, errRefused) || errors.Is(err, errSilent)
}
