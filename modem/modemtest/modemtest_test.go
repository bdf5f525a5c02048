package modemtest_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/modem/modemtest"
)

// talk serves sim over a pipe, sends the commands and returns what comes back
// until the modem has been silent for a minute.
func talk(t *testing.T, cfg modemtest.Config, commands ...string) string {
	t.Helper()
	var said strings.Builder
	synctest.Test(t, func(t *testing.T) {
		sim, err := modemtest.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		client, server := net.Pipe()
		var running sync.WaitGroup
		running.Go(func() {
			if err := sim.Serve(ctx, server); err != nil {
				t.Errorf("serve: %v", err)
			}
		})
		running.Go(func() { io.Copy(&said, client) })
		for _, c := range commands {
			if _, err := io.WriteString(client, c+"\r"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute) // simulated
		}
		cancel()
		running.Wait()
	})
	return said.String()
}

func TestDialects(t *testing.T) {
	tests := map[string]struct {
		cfg      modemtest.Config
		commands []string
		want     string
	}{
		"echo":         {modemtest.Config{}, []string{"AT", "ATE0", "AT"}, "AT\r\r\nOK\r\nATE0\r\r\nOK\r\n\r\nOK\r\n"},
		"several":      {modemtest.Config{}, []string{"ATQ0V1E0", "ATE0E0Y"}, "ATQ0V1E0\r\r\nOK\r\n\r\nERROR\r\n"},
		"numeric":      {modemtest.Config{Faults: modemtest.Faults{Numeric: true}}, []string{"ATE0", "AT+X", "ATV1"}, "ATE0\r0\r4\r\r\nOK\r\n"},
		"quectel":      {modemtest.Config{}, []string{"ATE0", "AT+QCCID", "AT+X"}, "ATE0\r\r\nOK\r\n\r\n+QCCID: 8988211000000000011\r\n\r\nOK\r\n\r\nERROR\r\n"},
		"huawei":       {modemtest.Config{Profile: modemtest.Huawei}, []string{"ATE0", "AT^ICCID?", "AT+X"}, "ATE0\r\r\nOK\r\n\r\n^ICCID: 8988211000000000011\r\n\r\nOK\r\n\r\nCOMMAND NOT SUPPORT\r\n"},
		"huawei CR":    {modemtest.Config{Profile: modemtest.Huawei, Faults: modemtest.Faults{ExtraCR: true}}, []string{"AT"}, "AT\r\r\r\nOK\r\r\n"},
		"simcom":       {modemtest.Config{Profile: modemtest.SIMCom}, []string{"ATE0", "AT+SPIC", "AT+CRSM=176,28589,0,0,4"}, "ATE0\r\r\nOK\r\n\r\n+SPIC: 3,10,3,10\r\n\r\nOK\r\n\r\n+CRSM: 144,0,00000002\r\n\r\nOK\r\n"},
		"errors":       {modemtest.Config{NoSIM: true}, []string{"ATE0", "AT+CIMI", "AT+CMEE=1", "AT+CIMI", "AT+CMEE=2", "AT+CIMI"}, "ATE0\r\r\nOK\r\n\r\nERROR\r\n\r\nOK\r\n\r\n+CME ERROR: 10\r\n\r\nOK\r\n\r\n+CME ERROR: SIM not inserted\r\n"},
		"URC":          {modemtest.Config{Faults: modemtest.Faults{URCs: []string{"RING"}}}, []string{"ATE0", "AT+CIMI"}, "ATE0\r\r\nRING\r\n\r\nOK\r\n\r\n001010123456789\r\n\r\nRING\r\n\r\nOK\r\n"},
		"two-step":     {modemtest.Config{Faults: modemtest.Faults{TwoStep: true}}, []string{"ATE0", "AT+CRSM=176,28589,0,0,4", "AT+CRSM=192,28589,0,0,4"}, "ATE0\r\r\nOK\r\n\r\n+CRSM: 159,4\r\n\r\nOK\r\n\r\n+CRSM: 144,0,\"00000002\"\r\n\r\nOK\r\n"},
		"card":         {modemtest.Config{}, []string{"ATE0", "AT+CRSM=176,28423,0,0,9"}, "ATE0\r\r\nOK\r\n\r\n+CRSM: 144,0,\"080910101032547698\"\r\n\r\nOK\r\n"},
		"junk":         {modemtest.Config{}, []string{"hello", "ATE0", "\x1b\x00AT", "", "A", "AT+", "AT="}, "hello\rATE0\r\r\nOK\r\n\r\nOK\r\n\r\nERROR\r\n\r\nERROR\r\n"},
		"operator":     {modemtest.Config{}, []string{"ATE0", "AT+COPS?", "AT+COPS=3,2", "AT+COPS?"}, "ATE0\r\r\nOK\r\n\r\n+COPS: 0,0,\"Test\",7\r\n\r\nOK\r\n\r\nOK\r\n\r\n+COPS: 0,2,\"00101\",7\r\n\r\nOK\r\n"},
		"registration": {modemtest.Config{}, []string{"ATE0", "AT+CEREG?", "AT+CREG?"}, "ATE0\r\r\nOK\r\n\r\n+CEREG: 2,1,\"1A2B\",\"01C3D4E5\",7\r\n\r\nOK\r\n\r\n+CREG: 2,1\r\n\r\nOK\r\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := talk(t, test.cfg, test.commands...); got != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

// TestPINCounter tries a PIN until the card wants its PUK.
func TestPINCounter(t *testing.T) {
	got := talk(t, modemtest.Config{Card: modemtest.Card{PIN: "1234"}, Faults: modemtest.Faults{StickyEcho: true}},
		"ATE0+CMEE=1", "AT+CPIN=1", "AT+QPINC?", `AT+CPIN="1"`, "AT+CPIN=1", "AT+CPIN?", "AT+QPINC?", "AT+CPIN=1234")
	for _, want := range []string{"+CME ERROR: 16", `+QPINC: "SC",2,10`, "+CME ERROR: 12", "+CPIN: SIM PUK", `+QPINC: "SC",0,10`, "+CME ERROR: 3"} {
		_, rest, ok := strings.Cut(got, "\r\n"+want+"\r\n")
		if !ok {
			t.Errorf("no %q in %q", want, got)
		}
		got = rest
	}
}

func TestNew(t *testing.T) {
	for want, cfg := range map[string]modemtest.Config{
		"profile":      {Profile: "nokia"},
		"imsi":         {Card: modemtest.Card{IMSI: "12345"}},
		"iccid":        {Card: modemtest.Card{ICCID: "123456789012345678"}},
		"imei":         {IMEI: "x"},
		"pin":          {Card: modemtest.Card{PIN: "123"}},
		"tries":        {Card: modemtest.Card{Tries: 11}},
		"mnc length":   {Card: modemtest.Card{MNCLength: 1}},
		"plmn":         {Operator: modemtest.Operator{PLMN: "1234"}},
		"operator":     {Operator: modemtest.Operator{Name: `"`}},
		"registration": {Registration: 16},
		"delay":        {Faults: modemtest.Faults{Delay: -1}},
	} {
		if _, err := modemtest.New(cfg); err == nil || !strings.HasPrefix(err.Error(), want+":") {
			t.Errorf("%s: %v", want, err)
		}
	}
	sim, err := modemtest.New(modemtest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.SwapSIM(&modemtest.Card{IMSI: "1"}); err == nil {
		t.Error("a card with one digit")
	}
}

// TestDial has the newest client get the port, and none while unplugged.
func TestDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim, err := modemtest.New(modemtest.Config{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { sim.Run(ctx) })
		first, err := sim.Dial(ctx)
		if err != nil {
			t.Fatal(err)
		}
		second, err := sim.Dial(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := first.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the first client: %v", err)
		}
		sim.Unplug()
		if _, err := second.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("unplugged: %v", err)
		}
		if _, err := sim.Dial(ctx); !errors.Is(err, modemtest.ErrUnplugged) {
			t.Errorf("dial: %v", err)
		}
		sim.Replug()
		cancel()
		running.Wait()
		if _, err := sim.Dial(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// TestPTY serves a terminal under a link, replaces a link that is left over and
// leaves other files alone.
func TestPTY(t *testing.T) {
	sim, err := modemtest.New(modemtest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	link, file := filepath.Join(dir, "tty"), filepath.Join(dir, "file")
	if err := os.Symlink("nowhere", link); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{file, filepath.Join(dir, "missing", "tty")} {
		if err := sim.RunPTY(t.Context(), bad, nil); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready := make(chan string, 1)
	var running sync.WaitGroup
	running.Go(func() {
		if err := sim.RunPTY(ctx, link, func(tty string) { ready <- tty }); err != nil {
			t.Error(err)
		}
	})
	tty := <-ready
	if target, err := os.Readlink(link); err != nil || target != tty {
		t.Errorf("%s, %v", target, err)
	}
	for range 2 { // a client may come and go
		port, err := os.OpenFile(link, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(port, "ATE0\r")
		for lines := bufio.NewScanner(port); lines.Scan() && lines.Text() != "OK"; {
		}
		port.Close()
	}
	cancel()
	running.Wait()
	if _, err := os.Lstat(link); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the link is still there: %v", err)
	}
}
