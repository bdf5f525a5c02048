package plan

import (
	"encoding/binary"
	"testing"
	"time"
)

// FuzzNext has any counters and clocks follow on each other: what is used never
// falls but by a reset, the shares add up, and no clock but NTP's brings a
// reset before running time does.
func FuzzNext(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\x07\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x20\x00\x08"))
	f.Fuzz(func(t *testing.T, b []byte) {
		take := func() uint64 {
			var v [8]byte
			n := copy(v[:], b)
			b = b[n:]
			return binary.BigEndian.Uint64(v[:])
		}
		c := Config{Size: 20 * gb, ResetDay: 31, ResetHour: 5, Daily: gb, Hourly: gb / 2, Margin: 3, Steps: []Step{{30, 150}}}
		s, in := NewState(), firstSample()
		for len(b) > 0 {
			kind := take()
			switch kind >> 61 {
			case 0:
				in.Link = nil
			case 1, 2:
				in.Link = &Link{Index: uint32(kind >> 8 & 3), Framed: kind&4 == 0, RxBytes: take() >> (kind & 31), RxPackets: take() >> 40}
			case 3:
				in.Boot[0]++
				in.Up = 0
			case 4:
				in.Wall = time.Unix(int64(take()>>(kind&31)), 0)
			}
			in.Synced, in.Roaming = kind&8 == 0, kind&16 == 0
			in.Sold = take() >> 34
			in.Up += time.Duration(take() >> (16 + kind>>56))
			before, elapsed := s, in.Up
			if before.Boot == in.Boot {
				elapsed -= before.Up
			}
			var d Decision
			s, d = s.Next(c, in)
			follows(t, c, before, s, d)
			if !in.Synced && before.Known && s.Start > before.Start && before.Time+int64(elapsed) < before.End*int64(time.Second) {
				t.Fatalf("a reset after %v, at %v: %+v", elapsed, time.Unix(0, s.Time), before)
			}
		}
	})
}

// follows checks one step.
func follows(t *testing.T, c Config, before, after State, d Decision) {
	t.Helper()
	same := before.Start == after.Start && !before.Trial
	if same && d.Used < before.Used(c) {
		t.Fatalf("used fell from %d to %d", before.Used(c), d.Used)
	}
	if same && after.Since-before.Since != shares(after)-shares(before)+after.Unseen-before.Unseen && after.Since != ^uint64(0) {
		t.Fatalf("the shares do not add up: %+v, %+v", before, after)
	}
	if (d.Why == "") != (d.Bytes > 0) || d.Payload > 0 && d.Bytes == 0 || d.Bytes > c.Size || d.Price < 100 {
		t.Fatalf("%+v", d)
	}
	r := record{number: 1, state: after}
	if _, err := parseRecord(r.append(nil)); err != nil && after.sound() {
		t.Fatal(err)
	}
	if !after.sound() {
		t.Fatalf("not to be stored: %+v", after)
	}
}
