package quic

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/apernet/quic-go/http3"
)

// Settings of a browser, with datagrams (RFC 9297 §2.1.1).
const usual = "\x04\x08" + "\x06\x50\x00" + "\x08\x01" + "\x33\x01" + "\x00"

func TestReadControl(t *testing.T) {
	for name, row := range map[string]struct {
		sent string
		code http3.ErrCode
		seen string // what settings was called with
	}{
		"ends":                 {"\x04\x02\x33\x01", http3.ErrCodeClosedCriticalStream, "true"},
		"ends at once":         {"", http3.ErrCodeClosedCriticalStream, ""},
		"ends in a frame":      {"\x04\x00\x0d\x05ab", http3.ErrCodeClosedCriticalStream, "false"},
		"ends in a length":     {"\x04\x00\x0d\x40", http3.ErrCodeClosedCriticalStream, "false"},
		"datagrams off":        {"\x04\x02\x33\x00", http3.ErrCodeClosedCriticalStream, "false"},
		"unknown frames":       {"\x04\x02\x33\x01" + "\x40\x21\x03abc" + "\x07\x01\x00" + "\x0d\x01\x04", http3.ErrCodeClosedCriticalStream, "true"},
		"unknown settings":     {"\x04\x06" + "\x33\x01" + "\x40\x21\x40\x21", http3.ErrCodeClosedCriticalStream, "true"},
		"no settings":          {"\x07\x01\x00", http3.ErrCodeMissingSettings, ""},
		"settings twice":       {"\x04\x00\x04\x00", http3.ErrCodeFrameUnexpected, "false"},
		"a request's frame":    {"\x04\x00\x00\x01x", http3.ErrCodeFrameUnexpected, "false"},
		"HTTP/2's frame":       {"\x04\x00\x06\x00", http3.ErrCodeFrameUnexpected, "false"},
		"HTTP/2's setting":     {"\x04\x02\x03\x01", http3.ErrCodeSettingsError, ""},
		"datagrams twice":      {"\x04\x04\x33\x01\x33\x01", http3.ErrCodeSettingsError, ""},
		"datagrams of 2":       {"\x04\x02\x33\x02", http3.ErrCodeSettingsError, ""},
		"half a setting":       {"\x04\x01\x33", http3.ErrCodeFrameError, ""},
		"half of the settings": {"\x04\x04\x33\x01", http3.ErrCodeFrameError, ""},
		"endless settings":     {"\x04\xbf\xff\xff\xff", http3.ErrCodeExcessiveLoad, ""},
	} {
		seen := ""
		code, err := readControl(strings.NewReader(row.sent), inward{settings: func(datagrams bool) {
			seen += map[bool]string{true: "true", false: "false"}[datagrams]
		}})
		if code != row.code || err == nil || seen != row.seen {
			t.Errorf("%s: got %v, %v, settings %q; want %v, %q", name, code, err, seen, row.code, row.seen)
		}
	}
}

// FuzzReadControl reads to the end or finds a fault, and sees settings once at
// most.
func FuzzReadControl(f *testing.F) {
	f.Add([]byte(usual))
	f.Add([]byte("\x04\x02\x33\x01\x40\x21\x03abc"))
	f.Add([]byte("\x04\x00\x00\x01x"))
	f.Add([]byte("\x04\xbf\xff\xff\xff"))
	f.Add([]byte("\x04\x00\x07\x02\x40\x08"))
	f.Fuzz(func(t *testing.T, b []byte) {
		seen := 0
		r := bytes.NewReader(b)
		code, err := readControl(r, inward{settings: func(bool) { seen++ }, goAway: func(uint64) error { return nil }})
		if err == nil || code == 0 || seen > 1 {
			t.Errorf("got %v, %v, settings %d times", code, err, seen)
		}
		if code == http3.ErrCodeClosedCriticalStream && (r.Len() > 0 || !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF)) {
			t.Errorf("%v with %d bytes left", err, r.Len())
		}
	})
}

// TestGoAway has the last request served, which may fall but not rise (RFC 9114
// §5.2), and a limit of pushes, which no server sends.
func TestGoAway(t *testing.T) {
	for name, row := range map[string]struct {
		sent string
		code uint64
		told []uint64
	}{
		"once":            {"\x07\x01\x08", 0x104, []uint64{8}},
		"of a long ID":    {"\x07\x08\xc0\x00\x00\x00\x00\x00\x00\x08", 0x104, []uint64{8}},
		"falls":           {"\x07\x01\x08\x07\x01\x00", 0x104, []uint64{8, 0}},
		"rises":           {"\x07\x01\x08\x07\x01\x0c", 0x108, []uint64{8}},
		"no request's":    {"\x07\x01\x07", 0x108, nil},
		"empty":           {"\x07\x00", 0x106, nil},
		"of nine bytes":   {"\x07\x09\x00\x00\x00\x00\x00\x00\x00\x00\x00", 0x106, nil},
		"with a rest":     {"\x07\x02\x08\x00", 0x106, nil},
		"cut off":         {"\x07\x02\x40", 0x106, nil},
		"of pushes":       {"\x0d\x01\x08", 0x105, nil},
		"behind unknowns": {"\x21\x01a\x07\x01\x08", 0x104, []uint64{8}},
	} {
		c := &ClientConn{}
		c.last.Store(1 << 62)
		var told []uint64
		code, _ := readControl(strings.NewReader("\x04\x00"+row.sent), inward{settings: func(bool) {}, goAway: func(id uint64) error {
			err := c.goAway(id)
			if err == nil {
				told = append(told, c.last.Load())
			}
			return err
		}})
		if uint64(code) != row.code || !slices.Equal(told, row.told) {
			t.Errorf("%s: got %v, told %v", name, code, told)
		}
	}
}
