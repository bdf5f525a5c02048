package seller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/modem"
	"github.com/depinsim/x402/modem/modemtest"
)

// A bench is a machine into which modems are plugged: its sysfs, and scripted
// modems behind its ports.
type bench struct {
	t      *testing.T
	root   string
	number int

	mu    sync.Mutex
	ports map[string]*modemtest.Modem
}

// A plug is where a modem is: USB path, its port and its interface.
type plug struct{ path, tty, net string }

func newBench(t *testing.T) *bench {
	return &bench{t: t, root: t.TempDir(), ports: map[string]*modemtest.Modem{}}
}

func (b *bench) config() modem.FindConfig {
	return modem.FindConfig{Root: b.root, Dev: "/dev", Proc: filepath.Join(b.root, "proc"), Open: b.open}
}

func (b *bench) open(ctx context.Context, port string) (io.ReadWriteCloser, error) {
	b.mu.Lock()
	m := b.ports[port]
	b.mu.Unlock()
	if m == nil {
		return nil, fs.ErrNotExist
	}
	return m.Dial(ctx)
}

// plugIn has the kernel enumerate a modem, as it does one of Quectel's.
func (b *bench) plugIn(m *modemtest.Modem, at plug) {
	b.t.Helper()
	b.number++
	device := filepath.Join(b.root, "devices", fmt.Sprint(b.number), at.path)
	part := filepath.Join(device, at.path+":1.2")
	for name, text := range map[string]string{
		"idVendor": "2c7c", "idProduct": "0125", "devnum": fmt.Sprint(b.number), "authorized": "1",
		at.path + ":1.2/bInterfaceNumber": "02", at.path + ":1.2/bInterfaceClass": "ff", at.path + ":1.2/bInterfaceProtocol": "00",
		at.path + ":1.2/" + at.tty + "/uevent": "", at.path + ":1.2/net/" + at.net + "/uevent": "",
	} {
		file := filepath.Join(device, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text+"\n"), 0o644)); err != nil {
			b.t.Fatal(err)
		}
	}
	bus := filepath.Join(b.root, "bus/usb/devices")
	if err := errors.Join(os.MkdirAll(bus, 0o755), os.Symlink(device, filepath.Join(bus, at.path)), os.Symlink(part, filepath.Join(bus, at.path+":1.2"))); err != nil {
		b.t.Fatal(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ports[filepath.Join("/dev", at.tty)] = m
}

func (b *bench) unplug(at plug) {
	b.t.Helper()
	bus := filepath.Join(b.root, "bus/usb/devices")
	if err := errors.Join(os.Remove(filepath.Join(bus, at.path)), os.Remove(filepath.Join(bus, at.path+":1.2"))); err != nil {
		b.t.Fatal(err)
	}
	b.mu.Lock()
	m := b.ports[filepath.Join("/dev", at.tty)]
	delete(b.ports, filepath.Join("/dev", at.tty))
	b.mu.Unlock()
	m.Unplug()
}

// IMEIs whose last digit is right (3GPP TS 23.003 annex B).
const (
	imeiA = "490154203237518"
	imeiB = "356938035643809"
)

func lineConfig(dir, imei string, find modem.FindConfig) Config {
	c := Config{
		StateDir: dir, Endpoints: []string{"agent.example:4402"}, Price: agent.Price{Up: 1, Down: 1},
		Payment: agent.Payment{
			Network: "eip155:84532", Facilitator: "http://facilitator.example", Asset: channel.Address{1}, PayTo: channel.Address{2},
		},
		Modem: &modem.Config{}, IMEI: imei, FindModems: find,
	}
	if imei != "" {
		c.Name, c.ID, c.StateDir = imei, imei, lineDir(dir, imei)
		c.Policy.Interface = InterfaceOfModem
	}
	return c
}

// benched runs body in simulated time beside the lines of two modems, A and B.
// look has the machine looked at, as an event does.
func benched(t *testing.T, body func(b *bench, h *hub, modems [2]*modemtest.Modem, look func())) {
	t.Helper()
	b, dir := newBench(t), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		var modems [2]*modemtest.Modem
		c := lineConfig(dir, "", b.config())
		c.Modem = nil
		for i, imei := range []string{imeiA, imeiB} {
			var err error
			card := modemtest.Card{IMSI: []string{"262011234567890", "208011234567890"}[i]}
			if modems[i], err = modemtest.New(modemtest.Config{IMEI: imei, Card: card}); err != nil {
				t.Fatal(err)
			}
			running.Go(func() { modems[i].Run(ctx) })
			c.SIMs = append(c.SIMs, lineConfig(dir, imei, modem.FindConfig{}))
		}
		h, err := openHub(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range h.all() {
			defer l.close()
			if !l.cfg.Retired {
				running.Go(func() { l.watchSIM(ctx) })
			}
		}
		look := func() {
			t.Helper()
			found, err := modem.Find(ctx, h.finder.cfg)
			if err != nil {
				t.Fatal(err)
			}
			h.finder.see(found)
			time.Sleep(10 * time.Second)
		}
		body(b, h, modems, look)
	})
}

// lineOf is the one with a name.
func lineOf(t *testing.T, h *hub, name string) *line {
	t.Helper()
	found, err := h.named(name)
	if err != nil {
		t.Fatal(err)
	}
	return found[0]
}

// TestHubFollowsModems: each line finds its modem by the IMEI, whatever port and
// interface it has, and never another one; one that is missing is nothing to the
// other.
func TestHubFollowsModems(t *testing.T) {
	benched(t, func(b *bench, h *hub, modems [2]*modemtest.Modem, look func()) {
		check := func(what string, name string, want plug, mcc string) {
			t.Helper()
			l := lineOf(t, h, name)
			st := l.status()
			if st.Refusing != "" || st.Modem.Port != "/dev/"+want.tty || st.Modem.MCC != mcc || st.Modem.IMEI != name || l.way.name() != want.net {
				t.Errorf("%s: line %s: refuses %q, port %s, MCC %s, IMEI %s, interface %q; want %+v", what, name, st.Refusing, st.Modem.Port, st.Modem.MCC, st.Modem.IMEI, l.way.name(), want)
			}
			offer, err := agent.ParseOffer(l.signedOffer())
			if err != nil || offer.SIM.MCC != mcc {
				t.Errorf("%s: the offer of %s: %+v, %v", what, name, offer.SIM, err)
			}
		}
		one, two := plug{"1-1", "ttyUSB0", "wwan0"}, plug{"1-2", "ttyUSB1", "wwan1"}
		look()
		if st := lineOf(t, h, imeiA).status(); st.Refusing == "" || !strings.Contains(st.Refusing, "no such modem is plugged in") {
			t.Errorf("nothing is plugged in: %q", st.Refusing)
		}
		b.plugIn(modems[1], one)
		look()
		check("B alone", imeiB, one, "208")
		if n := lineOf(t, h, imeiA).sim.refuses(); n == nil {
			t.Error("A sells and is not there")
		}
		b.plugIn(modems[0], two)
		look()
		check("both", imeiA, two, "262")
		check("both", imeiB, one, "208")

		b.unplug(one)
		time.Sleep(10 * time.Second)
		if name := lineOf(t, h, imeiB).way.name(); name != "" {
			t.Errorf("the unplugged modem's line still leaves by %s", name)
		}
		look()
		check("B unplugged", imeiA, two, "262")
		time.Sleep(simEvery + simGrace)
		if n := lineOf(t, h, imeiB).sim.refuses(); n == nil {
			t.Error("B sells without a modem")
		}
		check("B long unplugged", imeiA, two, "262")

		// Both are swapped, so that every name is the other's.
		b.unplug(two)
		modems[0].Replug()
		modems[1].Replug()
		b.plugIn(modems[0], one)
		b.plugIn(modems[1], two)
		look()
		check("swapped", imeiA, one, "262")
		check("swapped", imeiB, two, "208")
		st, err := h.status("")
		if err != nil || len(st.SIMs) != 2 || st.SIMs[0].Name != imeiA || st.SIMs[1].Name != imeiB || st.SIMs[0].Agent == st.SIMs[1].Agent {
			t.Errorf("%v: %+v", err, st)
		}
	})
}

// TestStalePort: a port that is another modem's by now is not asked by its line.
func TestStalePort(t *testing.T) {
	benched(t, func(b *bench, h *hub, modems [2]*modemtest.Modem, look func()) {
		one := plug{"1-1", "ttyUSB0", "wwan0"}
		b.plugIn(modems[0], one)
		look()
		b.unplug(one)
		b.plugIn(modems[1], one) // nobody has looked yet
		if _, _, err := h.finder.take(imeiA); !errors.Is(err, modem.ErrNoModem) {
			t.Errorf("%v", err)
		}
		time.Sleep(10 * time.Minute)
		if st := lineOf(t, h, imeiA).status(); st.Modem.Error == "" || st.Modem.IMEI != imeiA {
			t.Errorf("%+v", st.Modem)
		}
	})
}

// TestFinderTakes: a modem is one line's, and none's who did not ask for it.
func TestFinderTakes(t *testing.T) {
	b := newBench(t)
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i, imei := range []string{imeiA, imeiB} {
		m, err := modemtest.New(modemtest.Config{IMEI: imei})
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() { m.Run(ctx) })
		b.plugIn(m, plug{fmt.Sprint("1-", i+1), fmt.Sprint("ttyUSB", i), fmt.Sprint("wwan", i)})
	}
	f := newFinder(b.config())
	f.named = []string{imeiA}
	if _, _, err := f.take(""); !errors.Is(err, errLooking) {
		t.Errorf("before a look: %v", err)
	}
	found, err := modem.Find(ctx, f.cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.see(found)
	first, back, err := f.take("")
	if err != nil || first.IMEI != imeiB {
		t.Fatalf("any: %+v, %v", first, err)
	}
	if _, _, err := f.take(""); !errors.Is(err, modem.ErrNoModem) {
		t.Errorf("a second one: %v", err)
	}
	if known := f.cfg.Known(); len(known) != 1 || known[0].IMEI != imeiB {
		t.Errorf("known: %+v", known)
	}
	back()
	if again, _, err := f.take(""); err != nil || again.IMEI != imeiB {
		t.Errorf("given back: %+v, %v", again, err)
	}
	if a, _, err := f.take(imeiA); err != nil || a.Nets[0] != "wwan0" {
		t.Errorf("by its IMEI: %+v, %v", a, err)
	}
}

// TestLineKeys: the keys of lines derive from the device's, by ID alone.
func TestLineKeys(t *testing.T) {
	dir := t.TempDir()
	seen := map[channel.Address]string{}
	for range 2 { // started again, they are the same
		for _, imei := range []string{"", imeiA, imeiB} {
			s, err := open(lineConfig(dir, imei, modem.FindConfig{}))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.close(); err != nil {
				t.Fatal(err)
			}
			if of, known := seen[s.key.Address()]; known && of != imei {
				t.Errorf("%q and %q have one key", of, imei)
			}
			seen[s.key.Address()] = imei
		}
	}
	if len(seen) != 3 {
		t.Errorf("%d keys", len(seen))
	}
	if _, err := os.Stat(filepath.Join(lineDir(dir, imeiA), deviceKeyFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a line keeps a key of its own: %v", err)
	}
}

// TestFormerLines: lines that the config does not name any more go on claiming,
// and sell again when every modem does.
func TestFormerLines(t *testing.T) {
	dir := t.TempDir()
	for _, id := range []string{imeiA, "old"} {
		c := lineConfig(dir, imeiA, modem.FindConfig{})
		c.ID, c.StateDir = id, lineDir(dir, id)
		s, err := open(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
	}
	c := lineConfig(dir, "", modem.FindConfig{})
	for every, want := range map[bool][]string{
		false: {"", imeiA + " retired", "old retired"},
		true:  {"former retired", imeiA, "old retired"},
	} {
		c.EveryModem = every
		h, err := openHub(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := openHub(c); !errors.Is(err, channel.ErrInUse) {
			t.Errorf("a second agent: %v", err)
		}
		var got []string
		for _, l := range h.all() {
			name := l.cfg.Name
			if l.cfg.Retired {
				name += " retired"
			}
			got = append(got, name)
			if err := l.close(); err != nil {
				t.Error(err)
			}
		}
		if meant := unretired(h.all()); len(meant) != len(slices.DeleteFunc(slices.Clone(want), func(w string) bool { return strings.HasSuffix(w, " retired") })) {
			t.Errorf("every modem %v: a command that names no SIM means %d", every, len(meant))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("every modem %v: %q, want %q", every, got, want)
		}
	}
}
