package channel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A record is kind, length of the payload, payload, CRC-32C of all that; all
// integers big-endian. Configs and states are separate records, so that a
// voucher costs flash only for what changed.
const (
	recordConfig = 1
	recordState  = 2

	stateSize = 32 + 1 + 5*8 + 65 // and the note

	recordOverhead = 2 + 4
	maxRecord      = recordOverhead + stateSize + MaxNote // 240; the budget is 256
)

// ConfigSize is how many bytes AppendConfig appends.
const ConfigSize = 8 + 20 + 5*20 + 8 + 32

// Made once; crc32 keeps its own tables from then on.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// stateVersion opens the binary form of a State. A later one keeps reading
// the earlier.
const stateVersion = 1

var errShort = errors.New("ends early")

// MarshalBinary encodes the whole state with a CRC-32C at its end, for stores
// that keep one value a channel.
func (s State) MarshalBinary() ([]byte, error) {
	if _, err := s.withNote(s.Note); err != nil {
		return nil, err
	}
	b := make([]byte, 0, 1+ConfigSize+stateSize+len(s.Note)+4)
	b = append(b, stateVersion)
	b = AppendConfig(b, s.Domain, s.Config)
	b = appendState(b, s)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

// UnmarshalBinary reads what MarshalBinary wrote, and nothing else.
func (s *State) UnmarshalBinary(b []byte) error {
	if len(b) < 1+ConfigSize+4 {
		return fmt.Errorf("stored state: %w", errShort)
	}
	if b[0] != stateVersion {
		return fmt.Errorf("stored state: version %d, this program knows %d", b[0], stateVersion)
	}
	b, sum := b[:len(b)-4], b[len(b)-4:]
	if crc32.Checksum(b, castagnoli) != binary.BigEndian.Uint32(sum) {
		return errors.New("stored state: wrong checksum")
	}
	d, c := DecodeConfig(b[1 : 1+ConfigSize])
	v, err := decodeState(b[1+ConfigSize:])
	if err != nil {
		return fmt.Errorf("stored state: %w", err)
	}
	if v.ID != d.ID(c) {
		return errors.New("stored state: channel id does not match its config")
	}
	v.Domain, v.Config = d, c
	*s = v
	return nil
}

// appendRecord appends one framed record whose payload is made by fill.
func appendRecord(b []byte, kind byte, fill func([]byte) []byte) []byte {
	start := len(b)
	b = fill(append(b, kind, 0))
	b[start+1] = byte(len(b) - start - 2)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

func appendConfigRecord(b []byte, s State) []byte {
	return appendRecord(b, recordConfig, func(b []byte) []byte { return AppendConfig(b, s.Domain, s.Config) })
}

func appendStateRecord(b []byte, s State) []byte {
	return appendRecord(b, recordState, func(b []byte) []byte { return appendState(b, s) })
}

// nextRecord returns the kind and payload of the record at the start of b and
// its whole size. ok is false when there is none that is complete and right.
func nextRecord(b []byte) (kind byte, payload []byte, size int, ok bool) {
	if len(b) < recordOverhead {
		return 0, nil, 0, false
	}
	kind, n := b[0], int(b[1])
	switch {
	case kind == recordConfig && n == ConfigSize:
	case kind == recordState && n >= stateSize && n <= stateSize+MaxNote:
	default:
		return 0, nil, 0, false
	}
	if len(b) < recordOverhead+n {
		return 0, nil, 0, false
	}
	if crc32.Checksum(b[:2+n], castagnoli) != binary.BigEndian.Uint32(b[2+n:]) {
		return 0, nil, 0, false
	}
	return kind, b[2 : 2+n], recordOverhead + n, true
}

// AppendConfig encodes what a channel's ID is made of.
func AppendConfig(b []byte, d Domain, c Config) []byte {
	b = binary.BigEndian.AppendUint64(b, d.ChainID)
	b = append(b, d.Contract[:]...)
	b = append(b, c.Payer[:]...)
	b = append(b, c.PayerAuthorizer[:]...)
	b = append(b, c.Receiver[:]...)
	b = append(b, c.ReceiverAuthorizer[:]...)
	b = append(b, c.Token[:]...)
	b = binary.BigEndian.AppendUint64(b, c.WithdrawDelay)
	return append(b, c.Salt[:]...)
}

// decodeConfig takes exactly ConfigSize bytes; every value of them is a config.
func DecodeConfig(b []byte) (d Domain, c Config) {
	r := reader{b}
	d.ChainID = r.uint64()
	r.bytes(d.Contract[:])
	r.bytes(c.Payer[:])
	r.bytes(c.PayerAuthorizer[:])
	r.bytes(c.Receiver[:])
	r.bytes(c.ReceiverAuthorizer[:])
	r.bytes(c.Token[:])
	c.WithdrawDelay = r.uint64()
	r.bytes(c.Salt[:])
	return d, c
}

func appendState(b []byte, s State) []byte {
	b = append(b, s.ID[:]...)
	b = append(b, byte(s.Phase))
	for _, v := range [...]uint64{uint64(s.Balance), uint64(s.Claimed), s.RefundNonce, s.WithdrawAt, uint64(s.Max)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	b = append(b, s.Signature[:]...)
	return append(b, s.Note...)
}

// decodeState reads all but Domain and Config.
func decodeState(b []byte) (State, error) {
	if len(b) < stateSize {
		return State{}, errShort
	}
	if len(b) > stateSize+MaxNote {
		return State{}, errors.New("note is too long")
	}
	r := reader{b}
	var s State
	r.bytes(s.ID[:])
	var phase [1]byte
	r.bytes(phase[:])
	if s.Phase = Phase(phase[0]); s.Phase > Frozen {
		return State{}, fmt.Errorf("unknown %s", s.Phase)
	}
	s.Balance, s.Claimed = Amount(r.uint64()), Amount(r.uint64())
	s.RefundNonce, s.WithdrawAt = r.uint64(), r.uint64()
	s.Max = Amount(r.uint64())
	r.bytes(s.Signature[:])
	if len(r.b) > 0 {
		s.Note = append([]byte(nil), r.b...)
	}
	return s, nil
}

// A reader takes fields off a slice whose length was checked.
type reader struct{ b []byte }

func (r *reader) bytes(dst []byte) { r.b = r.b[copy(dst, r.b):] }

func (r *reader) uint64() uint64 {
	v := binary.BigEndian.Uint64(r.b)
	r.b = r.b[8:]
	return v
}
