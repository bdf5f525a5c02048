package modem

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ussdTime is how long the network may take for one answer.
const ussdTime = 60 * time.Second

// A USSDReply is what the network says to a code.
type USSDReply struct {
	Text string
	// More says that it waits for an answer, by USSD again; CancelUSSD ends the
	// dialogue instead.
	More bool
}

// ErrReleased says that the network ended a dialogue without a word, ErrNoAnswer
// that it said nothing in time.
var (
	ErrReleased = errors.New("the network ended the dialogue")
	ErrNoAnswer = errors.New("the network did not answer")
)

// USSD sends a code such as *100#, or the answer to a menu, and waits for what
// the network says, a minute at most. Neither is logged; the IMSI is left out of
// the answer.
func (m *Modem) USSD(ctx context.Context, code string) (reply USSDReply, err error) {
	plain, ok := gsm7Encode(code)
	if !ok || len(plain) == 0 || len(plain) > 182 || strings.ContainsAny(code, "\"\r\n\x1a") {
		return reply, errors.New("USSD: want 1 to 182 characters of the GSM alphabet, no quotes")
	}
	err = m.do(ctx, func() error {
		var failed error
		reply, failed = m.ussd(ctx, code, plain)
		return failed
	})
	if err != nil {
		return USSDReply{}, err // reply may still be the owner's
	}
	return reply, nil
}

// CancelUSSD ends a dialogue that waits for an answer.
func (m *Modem) CancelUSSD(ctx context.Context) error {
	return m.do(ctx, func() error {
		_, err := m.command(ctx, "+CUSD=2")
		return err
	})
}

func (m *Modem) ussd(ctx context.Context, code string, plain []byte) (USSDReply, error) {
	id, err := m.identity(ctx) // whose number the answer may hold
	if err != nil {
		return USSDReply{}, err
	}
	packed := m.device.dialect().packed
	if !packed { // with another alphabet, which programs before may have left, the code would be hex digits
		if _, err := m.try(ctx, `+CSCS="GSM"`, anything); err != nil {
			return USSDReply{}, err
		}
	}
	if err := m.settle(ctx); err != nil {
		return USSDReply{}, err
	}
	heard := &tap{lines: make(chan string, 64)}
	wire := m.link.wire
	wire.tap.Store(heard)
	defer wire.tap.Store(nil)
	cmd := `+CUSD=1,"` + code + `",15`
	if packed {
		cmd = "+CUSD=1," + strings.ToUpper(hex.EncodeToString(packUSSD(plain))) + ",15"
	}
	if _, err := m.commandFor(ctx, cmd, ussdTime); err != nil {
		return USSDReply{}, err
	}
	reply, err := m.awaitUSSD(ctx, heard, packed)
	reply.Text = id.IMSI.Redact(reply.Text)
	if err != nil && !errors.Is(err, ErrGone) && !errors.Is(err, ErrReleased) {
		_, _ = m.command(context.WithoutCancel(ctx), "+CUSD=2") // the next one shall not meet this one's answer
	}
	return reply, err
}

// awaitUSSD collects the network's answer, whose text may have several lines.
func (m *Modem) awaitUSSD(ctx context.Context, heard *tap, packed bool) (USSDReply, error) {
	late := time.NewTimer(ussdTime)
	defer late.Stop()
	whole := ""
	for {
		select {
		case line := <-heard.lines:
			switch _, starts := after(line, "+CUSD"); {
			case starts:
				whole = line
			case whole != "" && len(whole) < maxLine:
				whole += "\n" + line
			}
		case <-late.C:
			return USSDReply{}, fmt.Errorf("USSD: %w", ErrNoAnswer)
		case <-m.link.at.Closed():
			m.gone = true
			return USSDReply{}, ErrGone
		case <-ctx.Done():
			return USSDReply{}, ctx.Err()
		case <-m.stop:
			return USSDReply{}, ErrGone
		}
		if whole != "" && strings.Count(whole, `"`)%2 == 0 {
			if u, ok := parseCUSD(whole, packed); ok {
				return u.reply()
			}
			whole = ""
		}
	}
}

// A cusd is one "+CUSD: m[,"text"[,dcs]]" (3GPP TS 27.007 clause 7.15).
type cusd struct {
	m    int
	text string
}

func parseCUSD(line string, packed bool) (u cusd, ok bool) {
	rest, is := after(line, "+CUSD")
	if !is {
		return u, false
	}
	code, text, _ := strings.Cut(rest, ",")
	if u.m = number(strings.TrimSpace(code)); u.m < 0 || u.m > 5 {
		return u, false
	}
	dcs := 15
	if first, last := strings.IndexByte(text, '"'), strings.LastIndexByte(text, '"'); first >= 0 && last > first {
		if n := number(strings.Trim(text[last+1:], ", ")); n >= 0 {
			dcs = n
		}
		text = text[first+1 : last]
	}
	u.text = strings.TrimSpace(printable(decodeUSSD(text, dcs, packed)))
	return u, true
}

// decodeUSSD reads the text by its coding (3GPP TS 23.038 clause 5). UCS2 comes
// as hex digits; so do packed septets, from modems that do not unpack them.
func decodeUSSD(text string, dcs int, packed bool) string {
	raw, err := hex.DecodeString(text)
	isUCS2 := dcs == 0x11 || dcs&0xc0 == 0x40 && dcs&0x0c == 8
	switch {
	case err != nil || len(raw) == 0:
		return text
	case isUCS2 && dcs == 0x11 && len(raw)%2 == 1: // two septets of language first
		return ucs2Decode(raw[1:])
	case isUCS2:
		return ucs2Decode(raw)
	case packed:
		return strings.TrimRight(gsm7Decode(unpack7(raw, len(raw)*8/7, 0)), "@\r")
	}
	return text
}

// packUSSD packs a code; a septet of padding would be read as "@", so it is a
// carriage return (3GPP TS 23.038 clause 6.1.2.3.1).
func packUSSD(plain []byte) []byte {
	if len(plain)%8 == 7 {
		plain = append(slices.Clone(plain), '\r')
	}
	return pack7(plain, 0)
}

func (u cusd) reply() (USSDReply, error) {
	switch {
	case u.m == 4:
		return USSDReply{}, errors.New("USSD: the network does not support this code")
	case u.m == 5:
		return USSDReply{}, fmt.Errorf("USSD: %w", ErrNoAnswer)
	case u.m >= 2 && u.text == "":
		return USSDReply{}, fmt.Errorf("USSD: %w", ErrReleased)
	}
	return USSDReply{Text: u.text, More: u.m == 1}, nil
}
