package modem

import (
	"context"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/warthog618/modem/at"
)

// smsTime is how long the network may take for a short message: the makers say
// one to two minutes.
const smsTime = 90 * time.Second

// A Message is a short message that came in.
type Message struct {
	// Indexes are its places in the modem's store, for DeleteSMS: one for each
	// part that is there.
	Indexes []int
	From    string // a number, or a name that stands for one
	Time    time.Time
	Text    string // hex digits when Binary
	Binary  bool
	Missing int // parts that have not come; their text is left out
	Read    bool
}

// Redact takes an IMSI out of the message.
func (m *Message) Redact(i IMSI) {
	m.From = i.Redact(m.From)
	if m.Binary {
		m.Text = i.redactHex(m.Text)
	} else {
		m.Text = i.Redact(m.Text)
	}
}

// Messages reads the short messages in the modem's store, by their time. The
// modem marks them as read. What was sent from it is left out, and so is the
// IMSI where a message holds it.
func (m *Modem) Messages(ctx context.Context) (messages []Message, err error) {
	err = m.do(ctx, func() error {
		id, err := m.identity(ctx) // whose number a text may hold
		if err != nil {
			return err
		}
		list, err := m.listSMS(ctx)
		messages = joinParts(list)
		for i := range messages {
			messages[i].Redact(id.IMSI)
		}
		return err
	})
	if err != nil {
		return nil, err // messages may still be the owner's
	}
	return messages, nil
}

// DeleteSMS removes messages from the store by their places, and looks whether
// they are gone.
func (m *Modem) DeleteSMS(ctx context.Context, indexes ...int) error {
	return m.do(ctx, func() error {
		before, err := m.listSMS(ctx)
		if err != nil {
			return err
		}
		for _, index := range indexes {
			if _, err := m.commandFor(ctx, "+CMGD="+strconv.Itoa(index), radioTime); err != nil && !errors.Is(err, errRefused) {
				return err
			}
		}
		after, err := m.listSMS(ctx)
		if err != nil {
			return err
		}
		for _, s := range after { // another message may have come into a place since
			if slices.Contains(indexes, s.index) && slices.ContainsFunc(before, func(b stored) bool { return b.index == s.index && b.pdu == s.pdu }) {
				return UnverifiedError{"delete SMS " + strconv.Itoa(s.index), "it is gone", "it is there"}
			}
		}
		return nil
	})
}

// SendSMS sends a text to a number of 3 to 20 digits, with "+" before a country
// code, in as many messages as it takes, eight at most: each is paid for. sent
// is how many the network took. It never sends one twice: when there was no
// answer the error is an UnverifiedError.
func (m *Modem) SendSMS(ctx context.Context, to, text string) (sent int, err error) {
	pdus, err := encodeParts(to, text, byte(rand.N(256)))
	if err != nil {
		return 0, err
	}
	err = m.do(ctx, func() error {
		if err := m.ask(ctx, "+CMGF=0", anything); err != nil {
			return err
		}
		for i, pdu := range pdus {
			if err := m.sendSMS(ctx, pdu); err != nil {
				return err
			}
			sent = i + 1
		}
		return nil
	})
	if err != nil && ctx.Err() != nil {
		return 0, UnverifiedError{"send SMS", "an answer", ctx.Err().Error()} // sent is the owner's
	}
	return sent, err
}

// sendSMS sends one PDU. An error leaves the modem perhaps waiting for the text,
// so the link is opened anew after one, which begins with an escape.
func (m *Modem) sendSMS(ctx context.Context, pdu string) error {
	cmd := "+CMGS=" + strconv.Itoa(len(pdu)/2-1) // without the centre, which is one octet
	if err := m.settle(ctx); err != nil {
		return err
	}
	lines, err := m.exchange(ctx, cmd, smsTime, func() ([]string, error) {
		m.link.wire.lines.prompt.Store(true)
		return m.link.at.SMSCommand(cmd, pdu, at.WithTimeout(smsTime))
	})
	if m.link != nil {
		m.link.wire.lines.prompt.Store(false)
	}
	switch {
	case errors.Is(err, ErrTimeout):
		return UnverifiedError{"send SMS", "an answer", "nothing"}
	case err != nil:
		m.drop()
		return err
	}
	if _, ok := parseDigits(lines, "+CMGS", 1, 3); !ok {
		return UnverifiedError{"send SMS", "a number for the message", "OK only"}
	}
	return nil
}

// settle waits until a stray answer of the command before is over; there is a
// link afterwards.
func (m *Modem) settle(ctx context.Context) error {
	if m.link == nil {
		return m.reconnect(ctx)
	}
	return m.silence(ctx, settleTime)
}

// A stored message is one place of the modem's store.
type stored struct {
	index int
	read  bool
	pdu   string
	part
}

func (m *Modem) listSMS(ctx context.Context) ([]stored, error) {
	if err := m.ask(ctx, "+CMGF=0", anything); err != nil {
		return nil, err
	}
	lines, err := m.commandFor(ctx, "+CMGL=4", smsTime)
	if err != nil {
		return nil, err
	}
	return parseCMGL(lines), nil
}

// parseCMGL reads "+CMGL: index,stat,[alpha],length" and the PDU on a line after
// it (3GPP TS 27.005 clause 4.1). Others may stand between them; the length says
// which is the one.
func parseCMGL(lines []string) (list []stored) {
	index, stat, length := -1, 0, 0
	for _, line := range lines {
		if rest, is := after(line, "+CMGL"); is {
			f := fields(rest)
			index = -1
			if len(f) >= 4 && number(f[0]) >= 0 {
				index, stat, length = number(f[0]), number(f[1]), number(f[len(f)-1])
			}
			continue
		}
		raw, err := hex.DecodeString(line)
		if index < 0 || err != nil || len(raw) < 2 || len(raw) != 1+int(raw[0])+length {
			continue
		}
		if p, err := decodePart(line); err == nil {
			list = append(list, stored{index: index, read: stat != 0, pdu: line, part: p})
		}
		index = -1
	}
	return list
}

// joinParts makes messages of parts.
func joinParts(list []stored) []Message {
	var messages []Message
	used := make([]bool, len(list))
	for i, s := range list {
		if used[i] {
			continue
		}
		parts := make([]*stored, s.of)
		for j := i; j < len(list); j++ {
			q := &list[j]
			if !used[j] && q.from == s.from && q.ref == s.ref && q.of == s.of && (q.of > 1 || j == i) && parts[q.seq-1] == nil {
				parts[q.seq-1], used[j] = q, true
			}
		}
		messages = append(messages, join(parts))
	}
	for i := range messages { // some hundred at most
		for j := i; j > 0 && messages[j].Time.Before(messages[j-1].Time); j-- {
			messages[j], messages[j-1] = messages[j-1], messages[j]
		}
	}
	return messages
}

// join makes one message of its parts, of which nil ones are missing. Septets
// are joined before they are read: an escape may end one part.
func join(parts []*stored) (m Message) {
	var joined []byte
	var text strings.Builder
	for _, p := range parts {
		if p == nil {
			m.Missing++
			continue
		}
		if len(m.Indexes) == 0 {
			m.From, m.Time, m.Binary, m.Read = p.from, p.time, p.binary, true
		}
		m.Indexes = append(m.Indexes, p.index)
		m.Read = m.Read && p.read
		if joined = append(joined, p.septets...); p.septets == nil {
			text.WriteString(printable(gsm7Decode(joined)) + p.text)
			joined = nil
		}
	}
	m.Text = text.String() + printable(gsm7Decode(joined))
	return m
}
