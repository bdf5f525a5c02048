package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/depinsim/x402/modem"
	"github.com/depinsim/x402/modem/modemtest"
)

// lineWriter hands each write to a channel with room for all of them.
type lineWriter chan string

func (w lineWriter) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}

func TestModemsim(t *testing.T) {
	link := filepath.Join(t.TempDir(), "modem")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	said := make(lineWriter, 8) // more lines than there are
	var running sync.WaitGroup
	running.Go(func() {
		args := []string{
			"--profile", "huawei", "--imsi", "310260123456789", "--mnc-length", "3", "--operator", "T-Mobile", "--pin", "1234",
			"--iccid", "8901260123456789012", "--link", link, "--technology", "hspa",
		}
		if err := modemsim(ctx, args, said, io.Discard); err != nil {
			t.Error(err)
		}
	})
	if line := <-said; !strings.HasPrefix(line, "modem huawei ready on "+link+" (/dev/") || strings.Count(line, "\n") != 1 {
		t.Errorf("said %q", line)
	}
	pin, err := modem.ParsePIN("1234")
	if err != nil {
		t.Fatal(err)
	}
	m, err := modem.Open(ctx, modem.Config{Port: link, PIN: pin, PINGuard: filepath.Join(t.TempDir(), "pins")})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	id, err := m.Identity(ctx)
	if err != nil || id.IMSI.Digits() != "310260123456789" || id.IMSI.MNC() != "260" || id.ICCID != "8901260123456789012" {
		t.Errorf("%+v, %v", id, err)
	}
	status, err := m.Status(ctx)
	if err != nil || status.Operator != (modem.Operator{Name: "T-Mobile", MCC: "310", MNC: "260"}) || status.Technology != modem.HSPA {
		t.Errorf("%+v, %v", status, err)
	}
	cancel()
	running.Wait()
	<-m.Done()
	if _, err := os.Lstat(link); !errors.Is(err, os.ErrNotExist) {
		t.Error("the link is still there")
	}
}

func TestModemsimHelp(t *testing.T) {
	var help bytes.Buffer
	if err := modemsim(t.Context(), []string{"--help"}, &help, io.Discard); err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("modemsim.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`fs\.\w+\((?:&[\w.]+, )?"([a-z-]+)"`).FindAllSubmatch(source, -1) {
		if !strings.Contains(help.String(), "    --"+string(name[1])+" ") {
			t.Errorf("--%s is not explained", name[1])
		}
	}
	for line := range strings.Lines(help.String()) {
		if len(line) > 81 {
			t.Errorf("too wide: %s", line)
		}
	}
}

// TestModemsimList has every profile and every fault be listed.
func TestModemsimList(t *testing.T) {
	for flag, want := range map[string][]string{"--profile": modemtest.Profiles(), "--fault": modemtest.FaultNames()} {
		var out bytes.Buffer
		if err := modemsim(t.Context(), []string{flag, "list"}, &out, io.Discard); err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(out.String()) {
			name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
			got = append(got, name)
		}
		if !slices.Equal(got, want) || len(got) < 8 {
			t.Errorf("%s list: %q", flag, got)
		}
	}
}

// TestModemsimAll plays every profile, each with a fault, on a real terminal.
func TestModemsimAll(t *testing.T) {
	faults := []string{"unsolicited", "garbage", "echo", "prompts", "extra-error", "late", "numeric", "text-errors", "two-step"}
	for i, profile := range modemtest.Profiles() {
		t.Run(profile, func(t *testing.T) {
			link := filepath.Join(t.TempDir(), "modem")
			ctx, cancel := context.WithCancel(t.Context())
			said := make(lineWriter, 8) // more lines than there are
			var running sync.WaitGroup
			defer running.Wait()
			defer cancel()
			running.Go(func() {
				args := []string{"--profile", profile, "--fault", faults[i%len(faults)], "--link", link}
				if err := modemsim(ctx, args, said, io.Discard); err != nil {
					t.Error(err)
				}
			})
			<-said
			m, err := modem.Open(ctx, modem.Config{Port: link})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			id, err := m.Identity(ctx)
			if err != nil || id.IMSI.Digits() != "001010123456789" || id.Maker+" "+id.Model != modemtest.Model(profile) {
				t.Errorf("%+v, %v", id, err)
			}
		})
	}
}

func TestModemsimFlags(t *testing.T) {
	link := filepath.Join(t.TempDir(), "modem")
	for want, args := range map[string]string{
		"--link: missing":                         "",
		"--imsi: want 6 to 15 digits":             "--imsi 12x4567 --link " + link,
		"--iccid: want":                           "--iccid 1 --link " + link,
		"--imei: want":                            "--imei 1 --link " + link,
		"--pin: want 4 to 8 digits":               "--pin abcd --link " + link,
		"--plmn: want 5 or 6 digits":              "--plmn 1 --link " + link,
		`--profile: "nokia"`:                      "--profile nokia --link " + link,
		`--fault: "x" is not one of`:              "--fault x --link " + link,
		"--tries: 11":                             "--tries 11 --link " + link,
		"--mnc-length: 4":                         "--mnc-length 4 --link " + link,
		`--registration: "x"`:                     "--registration x --link " + link,
		`--technology: "x"`:                       "--technology x --link " + link,
		"--busy: -1s":                             "--busy -1s --link " + link,
		"--delay: 2h0m0s":                         "--delay 2h --link " + link,
		`invalid value "soon"`:                    "--delay soon --link " + link,
		`"extra": no arguments`:                   "--link " + link + " extra",
		"flag provided but not defined: --colour": "--colour red",
	} {
		err := modemsim(t.Context(), strings.Fields(args), io.Discard, io.Discard)
		if err == nil || !strings.HasPrefix(err.Error(), "modemsim: "+want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %s", args, err, want)
			continue
		}
		if _, usage := errors.AsType[modemsimUsage](err); !usage {
			t.Errorf("%s: not a usage error", args)
		}
	}
	if err := modemsim(t.Context(), []string{"--link", t.TempDir()}, io.Discard, io.Discard); err == nil {
		t.Error("a folder became a link")
	}
}
