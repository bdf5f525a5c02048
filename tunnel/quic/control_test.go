package quic

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// Settings of a browser, with datagrams (RFC 9297 §2.1.1).
const usual = "\x04\x08" + "\x06\x50\x00" + "\x08\x01" + "\x33\x01" + "\x00"

func TestReadControl(t *testing.T) {
	for name, row := range map[string]struct {
		sent string
		code errCode
		seen string // what settings was called with
	}{
		"ends":                 {"\x04\x02\x33\x01", codeClosedCritical, "true"},
		"ends at once":         {"", codeClosedCritical, ""},
		"ends in a frame":      {"\x04\x00\x0d\x05ab", codeClosedCritical, "false"},
		"ends in a length":     {"\x04\x00\x0d\x40", codeClosedCritical, "false"},
		"datagrams off":        {"\x04\x02\x33\x00", codeClosedCritical, "false"},
		"unknown frames":       {"\x04\x02\x33\x01" + "\x40\x21\x03abc" + "\x07\x01\x00" + "\x0d\x01\x04", codeClosedCritical, "true"},
		"unknown settings":     {"\x04\x06" + "\x33\x01" + "\x40\x21\x40\x21", codeClosedCritical, "true"},
		"no settings":          {"\x07\x01\x00", codeMissingSettings, ""},
		"settings twice":       {"\x04\x00\x04\x00", codeFrameUnexpected, "false"},
		"a request's frame":    {"\x04\x00\x00\x01x", codeFrameUnexpected, "false"},
		"HTTP/2's frame":       {"\x04\x00\x06\x00", codeFrameUnexpected, "false"},
		"HTTP/2's setting":     {"\x04\x02\x03\x01", codeSettings, ""},
		"datagrams twice":      {"\x04\x04\x33\x01\x33\x01", codeSettings, ""},
		"datagrams of 2":       {"\x04\x02\x33\x02", codeSettings, ""},
		"CONNECTs of 2":        {"\x04\x02\x08\x02", codeSettings, ""},
		"half a setting":       {"\x04\x01\x33", codeFrame, ""},
		"half of the settings": {"\x04\x04\x33\x01", codeFrame, ""},
		"endless settings":     {"\x04\xbf\xff\xff\xff", codeExcessiveLoad, ""},
	} {
		seen := ""
		code, err := readControl(strings.NewReader(row.sent), nil, func(datagrams bool) {
			seen += map[bool]string{true: "true", false: "false"}[datagrams]
		})
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
		if code, err := readControl(bytes.NewReader(b), nil, func(bool) {}); err == nil || code == 0 {
			t.Errorf("an agent got %v, %v", code, err)
		}
		r := bytes.NewReader(b)
		code, err := readControl(r, func(uint64) error { return nil }, func(bool) { seen++ })
		if err == nil || code == 0 || seen > 1 {
			t.Errorf("got %v, %v, settings %d times", code, err, seen)
		}
		if code == codeClosedCritical && (r.Len() > 0 || !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF)) {
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
		code, _ := readControl(strings.NewReader("\x04\x00"+row.sent), func(id uint64) error {
			err := c.goAway(id)
			if err == nil {
				told = append(told, c.last.Load())
			}
			return err
		}, func(bool) {})
		if uint64(code) != row.code || !slices.Equal(told, row.told) {
			t.Errorf("%s: got %v, told %v", name, code, told)
		}
	}
}

func TestReadQPACK(t *testing.T) {
	for name, row := range map[string]struct {
		typ  uint64
		sent string
		code errCode
	}{
		"encoder ends":          {streamEncoder, "\x02", codeClosedCritical},
		"encoder says nothing":  {streamEncoder, "\x02" + strings.Repeat("\x20", 200), codeClosedCritical},
		"encoder wants a table": {streamEncoder, "\x02\x3f\xe1\x1f", codeQPACKEncoder},
		"encoder inserts":       {streamEncoder, "\x40\x02\x20\xc0\x01x", codeQPACKEncoder},
		"decoder ends":          {streamDecoder, "\x03\x44", codeClosedCritical},
	} {
		code, err := readQPACK(strings.NewReader(row.sent), row.typ, 1<<(row.sent[0]>>6))
		if code != row.code || err == nil {
			t.Errorf("%s: got %v, %v", name, code, err)
		}
	}
}
