package agent

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/depinsim/x402/channel"
)

// ProtocolVersion is the version of the control stream's capsules. A hello
// names all that its sender speaks.
const ProtocolVersion = 1

// Capsule types of the control stream. Unknown types are skipped.
const (
	CapsuleHello   = 0x7402_0010 // buyer, first: who it is, proven
	CapsuleTerms   = 0x7402_0011 // agent, in answer: what holds for the session
	CapsuleVoucher = 0x7402_0012 // buyer: pays
	CapsuleReading = 0x7402_0013 // both: running totals
	CapsuleDrain   = 0x7402_0014 // buyer: no new flows; agent: all have ended
	CapsuleTopUp   = 0x7402_0015 // buyer: the deposit has grown
	CapsuleClose   = 0x7402_0016 // buyer: claim, then refund what is left
	CapsuleClosed  = 0x7402_0017 // agent: what came of it
	CapsuleNotice  = 0x7402_0018 // agent: something the buyer should know
	CapsuleRequest = 0x7402_0019 // buyer: a token for the channel, please
	CapsuleToken   = 0x7402_001a // agent: here it is
	CapsuleEarly   = 0x7402_001b // buyer, first on a resumed connection: a hello
	CapsuleRotate  = 0x7402_001c // buyer: another address, please
	CapsuleRotated = 0x7402_001d // agent: what came of it
	CapsuleReceipt = 0x7402_001e // buyer: empty, one please; agent: what it has come to, signed
)

// KnownCapsule reports whether typ is one of the above.
func KnownCapsule(typ uint64) bool { return typ >= CapsuleHello && typ <= CapsuleReceipt }

// ExporterLabel is the label of the TLS exporter (RFC 8446 §7.5) whose value a
// hello signs.
const ExporterLabel = "EXPORTER-x402-channel"

// A Hello opens a session. It is signed over the connection's exporter, so
// that it cannot be replayed or spliced into another connection.
type Hello struct {
	Versions []int          `json:"versions"`
	Network  string         `json:"network"`
	Config   channel.Config `json:"channelConfig"`
	Price    Price          `json:"price"` // from the offer; the session's, if the agent still sells at it
	// Own is what the buyer counted: sent up and received down, for the whole
	// channel, as of its session Own.Session.
	Own Counts `json:"own"`
	// Proof is the newest that the agent itself said, for an agent that lost it.
	Proof Proof `json:"proof,omitempty"`
	// Voucher pays nothing: it is one that covers what the agent may claim already.
	// A facilitator that knows no more than the standard tells of a channel only by
	// one.
	Voucher channel.Voucher `json:"voucher,omitzero"`
	// Closing says that the session is only to end the channel in order. It
	// carries no flows, and is let in while nothing is sold, too.
	Closing bool `json:"closing,omitempty"`
}

// Counts are one end's running totals of a channel.
type Counts struct {
	Session uint64 `json:"session,string"`
	Up      uint64 `json:"up,string"`
	Down    uint64 `json:"down,string"`
	// Cut says that a crash cut the session off: the counts may be short of what
	// came by then.
	Cut bool `json:"cut,omitempty"`
}

// What a hello's signature begins with: one that is signed over the exporter of
// its own connection, and one over the secret of the ticket that it came by.
const (
	helloText = "x402 hello v1\n"
	earlyText = "x402 early hello v1\n"
)

// SealHello encodes and signs h.
func SealHello(k *channel.Key, exporter [32]byte, h Hello) ([]byte, error) {
	return sealHello(k, helloText, exporter, h)
}

// SealEarlyHello is SealHello for what is sent before the handshake.
func SealEarlyHello(k *channel.Key, secret [32]byte, h Hello) ([]byte, error) {
	return sealHello(k, earlyText, secret, h)
}

func sealHello(k *channel.Key, text string, secret [32]byte, h Hello) ([]byte, error) {
	body, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	sig := k.Sign(helloDigest(text, secret, body))
	return append(sig[:], body...), nil
}

// OpenHello decodes a hello and checks that the channel's payerAuthorizer
// signed it on this connection.
func OpenHello(exporter [32]byte, b []byte) (Hello, error) { return openHello(helloText, exporter, b) }

// OpenEarlyHello is OpenHello for one that was sent before the handshake.
func OpenEarlyHello(secret [32]byte, b []byte) (Hello, error) {
	return openHello(earlyText, secret, b)
}

func openHello(text string, secret [32]byte, b []byte) (Hello, error) {
	var sig channel.Signature
	if len(b) < len(sig) {
		return Hello{}, errors.New("hello: truncated")
	}
	body := b[copy(sig[:], b):]
	var h Hello
	if err := json.Unmarshal(body, &h); err != nil {
		return Hello{}, fmt.Errorf("hello: %w", err)
	}
	if !slices.Contains(h.Versions, ProtocolVersion) {
		return h, &VersionError{Theirs: h.Versions}
	}
	signer, err := channel.Recover(helloDigest(text, secret, body), sig)
	if err != nil {
		return Hello{}, fmt.Errorf("hello: %w", err)
	}
	if signer != h.Config.PayerAuthorizer || signer.IsZero() {
		return Hello{}, fmt.Errorf("hello: signed by %s, not by the payerAuthorizer %s", signer, h.Config.PayerAuthorizer)
	}
	return h, h.Price.Check()
}

func helloDigest(text string, secret [32]byte, body []byte) channel.Hash {
	hash := channel.Keccak256(body)
	return channel.Keccak256([]byte(text), secret[:], hash[:])
}

// A VersionError says which versions each side speaks.
type VersionError struct{ Theirs []int }

func (e *VersionError) Error() string {
	return fmt.Sprintf("peer speaks protocol versions %v, this program %d: update the older one", e.Theirs, ProtocolVersion)
}

// Terms are what holds for a session. The base is fixed for its life.
type Terms struct {
	Version  int             `json:"version"`
	Session  uint64          `json:"session,string"`
	Price    Price           `json:"price"`
	Base     channel.Amount  `json:"base"`
	BaseUp   uint64          `json:"baseUp,string"`
	BaseDown uint64          `json:"baseDown,string"`
	Balance  channel.Amount  `json:"balance"` // of the channel, as the agent last saw it
	Credit   channel.Amount  `json:"credit"`
	Voucher  channel.Voucher `json:"voucher"` // the newest that the agent holds; zero for none
	// Rotate is what another address costs. Nil: the agent gives none on request.
	Rotate *channel.Amount `json:"rotate,omitempty"`
	// Receipts says that the agent gives receipts.
	Receipts bool `json:"receipts,omitempty"`
}

// Tally is the running total that the terms begin.
func (t Terms) Tally() Tally {
	return Tally{
		Session: t.Session, Price: t.Price, Base: t.Base,
		BaseUp: t.BaseUp, BaseDown: t.BaseDown, Up: t.BaseUp, Down: t.BaseDown,
	}
}

// Codes of a Notice.
const (
	NoticePrice       = "price_changed"
	NoticeFacilitator = "facilitator_unavailable"
	NoticeDeposit     = "deposit_required"
	NoticeSIM         = "sim_not_ready"
	NoticeBusy        = "channel_busy"
	NoticeRefused     = "refused"
	NoticeVoucher     = "voucher_refused"
	NoticeDraining    = "shutting_down"
	NoticeHeld        = "loss_held"
	NoticeToken       = "token_refused"
	NoticePlan        = "plan_spent"
	NoticePaused      = "not_selling"
	NoticeSwapped     = "sim_changed" // the session ends: what was bought is not there any more
)

// A Notice tells the buyer why it is not served, or not as it asked.
type Notice struct {
	Code  string `json:"code"`
	Text  string `json:"text"`
	Price *Price `json:"price,omitempty"` // with NoticePrice: what it is now
}

func (n Notice) Error() string { return n.Text }

// Ends says whether the notice, in the middle of a session, asks the buyer to
// finish and leave.
func (n Notice) Ends() bool {
	return n.Code == NoticeDraining || n.Code == NoticePlan || n.Code == NoticePaused || n.Code == NoticeSwapped
}

// Closing is the buyer's wish to end the channel.
type Closing struct {
	Refund bool `json:"refund"` // false: only claim
}

// Closed is what came of a Closing.
type Closed struct {
	Claimed  channel.Amount `json:"claimed"` // in all, cumulative
	Refunded channel.Amount `json:"refunded"`
	Error    string         `json:"error,omitempty"`
}

// A RotateRequest asks for another address, at no more than a price. A voucher
// for what is owed and the price goes before it.
type RotateRequest struct {
	Price channel.Amount `json:"price"`
}

// A Rotated is what came of a rotation that the buyer asked for. Only one that
// changed the address has a price; it is owed from then on.
type Rotated struct {
	Changed bool           `json:"changed"`
	Old     netip.Addr     `json:"old,omitzero"`
	New     netip.Addr     `json:"new,omitzero"`
	Price   channel.Amount `json:"price"`
	Error   string         `json:"error,omitempty"`
}

// decodeJSON reads one JSON value and nothing behind it.
func decodeJSON[T Terms | Notice | Closing | Closed | TokenRequest | TokenGrant | RotateRequest | Rotated](b []byte) (v T, err error) {
	if err := json.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("capsule: %w", err)
	}
	return v, nil
}

// ParseTerms decodes terms. Whether they are acceptable is the buyer's to say.
func ParseTerms(b []byte) (Terms, error) {
	t, err := decodeJSON[Terms](b)
	if err == nil {
		err = t.Price.Check()
	}
	return t, err
}

// ParseNotice decodes a notice; its text is safe to show.
func ParseNotice(b []byte) (Notice, error) {
	n, err := decodeJSON[Notice](b)
	n.Code, n.Text = showable(n.Code), showable(n.Text)
	return n, err
}

// ParseRotateRequest decodes a buyer's wish for another address.
func ParseRotateRequest(b []byte) (RotateRequest, error) { return decodeJSON[RotateRequest](b) }

// ParseRotated decodes what came of it; its text is safe to show.
func ParseRotated(b []byte) (Rotated, error) {
	r, err := decodeJSON[Rotated](b)
	r.Error = showable(r.Error)
	if err == nil && !r.Changed && r.Price != 0 {
		err = errors.New("rotated: a price for nothing")
	}
	return r, err
}

// ParseClosing decodes a buyer's wish to end the channel.
func ParseClosing(b []byte) (Closing, error) { return decodeJSON[Closing](b) }

// ParseClosed decodes what came of it; its text is safe to show.
func ParseClosed(b []byte) (Closed, error) {
	c, err := decodeJSON[Closed](b)
	c.Error = showable(c.Error)
	return c, err
}

// maxShown bounds a peer's text in characters.
const maxShown = 300

// showable makes a peer's text fit for a terminal and a log line.
func showable(s string) string {
	s = strings.Map(func(r rune) rune {
		if steers(r) {
			return ' '
		}
		return r
	}, s)
	if r := []rune(s); len(r) > maxShown {
		s = string(r[:maxShown])
	}
	return s
}

// AppendVoucher encodes a voucher's amount and signature: 81 bytes. The
// channel is the session's.
func AppendVoucher(b []byte, v channel.Voucher) []byte {
	b = append(b, make([]byte, 8)...) // uint128, of which an Amount is the lower half
	b = binary.BigEndian.AppendUint64(b, uint64(v.Max))
	return append(b, v.Signature[:]...)
}

// ParseVoucher decodes a voucher of channel id.
func ParseVoucher(id channel.ID, b []byte) (channel.Voucher, error) {
	v := channel.Voucher{Channel: id}
	if len(b) != 16+len(v.Signature) {
		return v, fmt.Errorf("voucher: %d bytes, want %d", len(b), 16+len(v.Signature))
	}
	if binary.BigEndian.Uint64(b) != 0 {
		return v, fmt.Errorf("voucher: %w", channel.ErrOverflow)
	}
	v.Max = channel.Amount(binary.BigEndian.Uint64(b[8:]))
	copy(v.Signature[:], b[16:])
	return v, nil
}

// A Reading is one end's running totals of the session, and what the agent
// makes of them.
type Reading struct {
	// Received is what came out of the tunnel at the sender of the reading, by
	// kind; Sent is what it put in. UDP bytes include 28 a packet.
	ReceivedTCP, ReceivedUDP, ReceivedPackets uint64
	SentTCP, SentUDP, SentPackets             uint64

	// The agent's alone: what the channel owes, what is paid, what may be owed.
	Owed, Paid, Credit channel.Amount
	Proof              Proof
}

const (
	readingVersion = 1
	readingSize    = 1 + 9*8
)

// AppendReading encodes r; the agent's carries its proof.
func AppendReading(b []byte, r Reading) []byte {
	b = append(b, readingVersion)
	for _, v := range [...]uint64{
		r.ReceivedTCP, r.ReceivedUDP, r.ReceivedPackets, r.SentTCP, r.SentUDP, r.SentPackets,
		uint64(r.Owed), uint64(r.Paid), uint64(r.Credit),
	} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return append(b, r.Proof...)
}

// ParseReading decodes a reading.
func ParseReading(b []byte) (Reading, error) {
	if len(b) < 1 || b[0] != readingVersion {
		return Reading{}, errors.New("reading: unknown version")
	}
	if len(b) != readingSize && len(b) != readingSize+proofSize {
		return Reading{}, fmt.Errorf("reading: %d bytes", len(b))
	}
	var v [9]uint64
	for i := range v {
		v[i] = binary.BigEndian.Uint64(b[1+8*i:])
	}
	r := Reading{
		ReceivedTCP: v[0], ReceivedUDP: v[1], ReceivedPackets: v[2],
		SentTCP: v[3], SentUDP: v[4], SentPackets: v[5],
		Owed: channel.Amount(v[6]), Paid: channel.Amount(v[7]), Credit: channel.Amount(v[8]),
	}
	if rest := b[readingSize:]; len(rest) > 0 {
		r.Proof = slices.Clone(rest)
	}
	if r.ReceivedTCP+r.ReceivedUDP < r.ReceivedTCP || r.SentTCP+r.SentUDP < r.SentTCP {
		return Reading{}, errors.New("reading: totals overflow")
	}
	return r, nil
}

// Received is all bytes that came out of the tunnel.
func (r Reading) Received() uint64 { return r.ReceivedTCP + r.ReceivedUDP }

// Sent is all bytes that were put in.
func (r Reading) Sent() uint64 { return r.SentTCP + r.SentUDP }

// A Proof is a tally that an agent can recognise as its own: after a crash the
// buyer gives it back. Only the agent that made it can check it.
type Proof []byte

const (
	macSize   = 16
	proofSize = tallySize + macSize
)

// NewProof seals t for channel id with the agent's secret.
func NewProof(secret [32]byte, id channel.ID, t Tally) Proof {
	b := t.append(make([]byte, 0, proofSize))
	return append(b, proofMAC(secret, id, b)...)
}

// Open returns the tally that p seals, if it is the agent's own for channel id.
func (p Proof) Open(secret [32]byte, id channel.ID) (Tally, error) {
	var t Tally
	if len(p) != proofSize || !hmac.Equal(p[tallySize:], proofMAC(secret, id, p[:tallySize])) {
		return t, errors.New("proof: not this agent's")
	}
	return t, t.UnmarshalBinary(p[:tallySize])
}

func proofMAC(secret [32]byte, id channel.ID, tally []byte) []byte {
	mac := hmac.New(sha256.New, secret[:])
	mac.Write(id[:])
	mac.Write(tally)
	return mac.Sum(nil)[:macSize]
}
