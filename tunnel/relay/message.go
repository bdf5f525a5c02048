package relay

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// MaxMessage bounds a control message.
const MaxMessage = 16 << 10

// Types of control messages. One that is not known is skipped.
const (
	TypeHello   = "hello"   // agent, first: Version, Agent, Signature
	TypeOffer   = "offer"   // agent: Offer; none withdraws the one before
	TypeWelcome = "welcome" // relay, first: Version, Observed
	TypeSession = "session" // relay: an Allotment
	TypeEnd     = "end"     // both: ID of a session that is over
	TypePing    = "ping"    // agent; over TCP the relay returns it
	TypeNotice  = "notice"  // relay: Code, Text
	TypeDrain   = "drain"   // relay: it is about to stop
	TypeRotate  = "rotate"  // relay: ID of a request, Link
	TypeRotated = "rotated" // agent: that ID, Rotated
	TypeWatch   = "watch"   // both: Watch
)

// Codes of notices.
const (
	CodeVersion   = "version"   // no common version; the connection ends
	CodeSignature = "signature" // the hello is not the agent's; the connection ends
	CodeReplaced  = "replaced"  // the agent has come by another connection; this one ends
	CodeLimit     = "limit"     // too many of something; the connection ends
	CodeDrain     = "drain"     // the relay is about to stop; the connection ends
	CodeOffer     = "offer"     // the offer was refused; the one before stays
)

// An Allotment is one side's part of a session.
type Allotment struct {
	ID SessionID `json:"id"`
	// Address is the side's own port of the relay: UDP, or TCP if TCP is set.
	Address netip.AddrPort `json:"address,omitzero"`
	Token   Token          `json:"token,omitzero"`
	TCP     bool           `json:"tcp,omitempty"`
	// Expires is in how many seconds the allotment ends if it is not used. It
	// is relative, since routers have no clock.
	Expires uint32 `json:"expires,omitempty"`
}

// Check refuses an allotment that cannot be used.
func (a Allotment) Check() error {
	ip := a.Address.Addr()
	if a.ID == (SessionID{}) || a.Token == (Token{}) || !ip.IsValid() || ip.IsUnspecified() || ip.Zone() != "" || a.Address.Port() == 0 {
		return errors.New("incomplete session")
	}
	return nil
}

// A Message is one message of the control stream. Type says which members it
// has.
type Message struct {
	Type      string          `json:"type"`
	Version   int             `json:"version,omitempty"`
	Agent     Address         `json:"agent,omitzero"`
	Signature Signature       `json:"signature,omitzero"`
	Offer     json.RawMessage `json:"offer,omitempty"`
	Observed  netip.AddrPort  `json:"observed,omitzero"`
	Code      string          `json:"code,omitempty"`
	Text      string          `json:"text,omitempty"`
	Link      string          `json:"link,omitempty"`
	Rotated   json.RawMessage `json:"rotated,omitempty"`
	Watch     json.RawMessage `json:"watch,omitempty"`
	*Allotment
}

// Append appends the message in its frame: a 16-bit length and JSON.
func (m Message) Append(b []byte) ([]byte, error) {
	j, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(j) > MaxMessage {
		return nil, fmt.Errorf("relay: message of %d bytes, at most %d are allowed", len(j), MaxMessage)
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(len(j))), j...), nil
}

// ReadMessage reads one message. The end of r between two messages is io.EOF.
func ReadMessage(r io.Reader) (Message, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Message{}, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > MaxMessage {
		return Message{}, fmt.Errorf("relay: message of %d bytes, at most %d are allowed", n, MaxMessage)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Message{}, err
	}
	var m Message
	if err := json.Unmarshal(b, &m); err != nil {
		return Message{}, fmt.Errorf("relay: message: %w", err)
	}
	return m, nil
}
