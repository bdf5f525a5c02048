package demo

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "1": 1, "7B": 7, "50MB": 50e6, "50M": 50e6, "3k": 3e3, "3kB": 3e3, "2K": 2e3, "1G": 1e9, "1000GB": 1e12,
	} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("%q is %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "B", "M", "-1", "+1", "1.5M", "1T", "1001G", "1 M", "MM", "99999999999999999999", "9223372036854775807G"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("%q is %d", in, got)
		}
	}
}

func TestSize(t *testing.T) {
	for in, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 50e6: "50 MB", 9_949: "9.9 kB", 9_951: "10 kB", 999_499: "999 kB", 999_500: "1.0 MB", 1e12: "1.0 TB"} {
		if got := size(in); got != want {
			t.Errorf("%d is %q, want %q", in, got, want)
		}
	}
}

func TestCount(t *testing.T) {
	for in, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 12345678: "12,345,678"} {
		if got := count(in); got != want {
			t.Errorf("%d is %q", in, got)
		}
	}
}

// TestNarrator checks that a moving line leaves nothing behind.
func TestNarrator(t *testing.T) {
	var b bytes.Buffer
	n := &narrator{w: &b, terminal: true, began: time.Now()}
	n.draw("long line")
	n.draw("short")
	n.step("crash", "now")
	if got := screen(b.String()); !strings.HasSuffix(strings.TrimRight(got[0], " "), "s  crash       now") || strings.Contains(got[0], "line") {
		t.Errorf("%q", got)
	}
	b.Reset()
	n.terminal = false
	n.draw("nothing")
	if b.Len() > 0 {
		t.Errorf("drew %q", b.String())
	}
	if got := bar(25e6, 50e6, time.Second); !strings.Contains(got, "[###############...............] 25 MB of 50 MB, 200 Mbit/s") {
		t.Errorf("%q", got)
	}
}

// screen plays a terminal with carriage returns.
func screen(s string) []string {
	lines := []string{""}
	at := 0
	for _, r := range s {
		last := &lines[len(lines)-1]
		switch r {
		case '\r':
			at = 0
		case '\n':
			lines, at = append(lines, ""), 0
		default:
			if at < len(*last) {
				*last = (*last)[:at] + string(r) + (*last)[at+1:]
			} else {
				*last += string(r)
			}
			at++
		}
	}
	return lines
}
