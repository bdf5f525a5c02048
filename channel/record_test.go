package channel

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fullState has every field set, and the longest note.
func fullState(t testing.TB) State {
	s := opened(t)
	s.Phase, s.RefundNonce, s.WithdrawAt = Frozen, 3, 1_800_000_000
	v := s.Domain.SignVoucher(goldenKey(t), s.ID, 270)
	s.Max, s.Signature = v.Max, v.Signature
	s.Note = bytes.Repeat([]byte{0xee}, MaxNote)
	return s
}

func TestStateBinary(t *testing.T) {
	for _, s := range []State{opened(t), fullState(t)} {
		b, err := s.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var back State
		if err := back.UnmarshalBinary(b); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(s, back); d != "" {
			t.Error(d)
		}
		for n := range b {
			if err := back.UnmarshalBinary(b[:n]); err == nil {
				t.Errorf("%d of %d bytes were enough", n, len(b))
			}
		}
	}
	s := fullState(t)
	s.Note = append(s.Note, 0)
	if _, err := s.MarshalBinary(); err == nil {
		t.Error("a note too long was encoded")
	}
	b, err := opened(t).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 0x10
		var back State
		if err := back.UnmarshalBinary(bad); err == nil || back.ID != (ID{}) {
			t.Errorf("a changed byte %d was not noticed", i)
		}
	}
	// A right checksum does not make another channel's id right.
	other := opened(t)
	other.ID[0]++
	if b, err = other.MarshalBinary(); err != nil {
		t.Fatal(err)
	}
	if err := other.UnmarshalBinary(b); err == nil {
		t.Error("another channel's id was accepted")
	}
}

func TestRecordBudget(t *testing.T) {
	if got := len(appendStateRecord(nil, fullState(t))); got != maxRecord || got > 256 {
		t.Errorf("a state with its note takes %d bytes", got)
	}
	if got := len(appendConfigRecord(nil, fullState(t))); got > 256 {
		t.Errorf("a config takes %d bytes", got)
	}
}

// Every single wrong byte of a record is noticed.
func TestRecordChecksum(t *testing.T) {
	good := appendStateRecord(nil, fullState(t))
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, _, _, ok := nextRecord(bad); ok {
			t.Errorf("a changed byte %d was not noticed", i)
		}
		if _, _, _, ok := nextRecord(good[:i]); ok {
			t.Errorf("%d of %d bytes were enough", i, len(good))
		}
	}
}

// What decodes is what would have been encoded: one state has one form.
func FuzzRecord(f *testing.F) {
	s := fullState(f)
	f.Add(appendStateRecord(nil, s))
	f.Add(appendConfigRecord(nil, s))
	b, _ := s.MarshalBinary()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if kind, payload, size, ok := nextRecord(b); ok {
			var again []byte
			switch kind {
			case recordConfig:
				d, c := DecodeConfig(payload)
				again = appendConfigRecord(nil, State{Domain: d, Config: c})
			case recordState:
				s, err := decodeState(payload)
				if err != nil {
					return
				}
				again = appendStateRecord(nil, s)
			}
			if !bytes.Equal(again, b[:size]) {
				t.Errorf("record %x\nbecame %x", b[:size], again)
			}
		}
		var s State
		if s.UnmarshalBinary(b) == nil {
			if again, err := s.MarshalBinary(); err != nil || !bytes.Equal(again, b) {
				t.Errorf("state %x\nbecame %x, %v", b, again, err)
			}
		}
	})
}
