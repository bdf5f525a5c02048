package modem

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/modem/modemtest"
)

// plant writes a tree as sysfs has it, from a description:
//
//	usb <path> <vendor>:<product> <devnum> [off]
//	  <interface> <class>/<subclass>/<protocol> [ttyUSB0 | tty/ttyACM0 | net/wwan0 | usbmisc/cdc-wdm0]…
//	pci <address> <vendor>:<device> <wwan device> [wwan0at0 | net/wwan0]…
func plant(t *testing.T, root, description string) {
	t.Helper()
	write := func(path, text string) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, path string) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(target, path)); err != nil {
			t.Fatal(err)
		}
	}
	var device, name string
	for line := range strings.Lines(description) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		switch f[0] {
		case "usb":
			name, device = f[1], filepath.Join(root, "devices/platform/usb", f[1])
			vendor, product, _ := strings.Cut(f[2], ":")
			write(filepath.Join(device, "idVendor"), vendor)
			write(filepath.Join(device, "idProduct"), product)
			write(filepath.Join(device, "devnum"), f[3])
			write(filepath.Join(device, "authorized"), map[bool]string{true: "0", false: "1"}[slices.Contains(f, "off")])
			link(device, filepath.Join(root, "bus/usb/devices", name))
		case "pci":
			device = filepath.Join(root, "devices/pci0000:00/0000:00:1c.0", f[1])
			vendor, product, _ := strings.Cut(f[2], ":")
			write(filepath.Join(device, "vendor"), "0x"+vendor)
			write(filepath.Join(device, "device"), "0x"+product)
			for _, part := range f[4:] {
				dir := filepath.Join(device, "mhi0/wwan", f[3], part)
				if class, _, _ := strings.Cut(part, "/"); class == "net" {
					dir = filepath.Join(device, part)
				}
				write(filepath.Join(dir, "uevent"), "")
				class, base := "wwan", filepath.Base(part)
				if strings.HasPrefix(part, "net/") {
					class = "net"
				}
				link(dir, filepath.Join(root, "class", class, base))
			}
		default:
			number, err := strconv.Atoi(f[0])
			if err != nil {
				t.Fatal(err)
			}
			kind := strings.Split(f[1], "/")
			part := filepath.Join(device, fmt.Sprintf("%s:1.%d", name, number))
			write(filepath.Join(part, "bInterfaceNumber"), fmt.Sprintf("%02x", number))
			write(filepath.Join(part, "bInterfaceClass"), kind[0])
			write(filepath.Join(part, "bInterfaceProtocol"), kind[2])
			for _, child := range f[2:] {
				write(filepath.Join(part, child, "uevent"), "")
			}
			link(part, filepath.Join(root, "bus/usb/devices", filepath.Base(part)))
		}
	}
}

func layout(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata/sysfs", name+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestScan has the right ports come first, and nothing be a modem that is none.
func TestScan(t *testing.T) {
	for name, want := range map[string][]string{
		"hub": {
			"1-1.1 2c7c:0125 Quectel ttyUSB2 ttyUSB3 ttyUSB0 ttyUSB1 | wwan0 | cdc-wdm0",
			"1-1.2 1e0e:9001 SIMCom ttyUSB6 ttyUSB7 ttyUSB4 ttyUSB5 ttyUSB8 | wwan1 | cdc-wdm1",
			"1-1.3 12d1:1506 Huawei ttyUSB11 ttyUSB9 ttyUSB10 | wwan2 | cdc-wdm2",
			"1-1.5.2 1199:9071 Sierra ttyUSB15 ttyUSB13 ttyUSB14 | wwan3 | cdc-wdm3",
		},
		"router": {
			"0000:01:00.0 17cb:0306  wwan0at0 | wwan0 | wwan0mbim0",
			"1-2 12d1:14dc Huawei  | eth2 | ",
			"1-3 2c7c:0801 Quectel  |  | ",
			"2-1 2cb7:0104 Fibocom ttyUSB0 ttyUSB1 ttyUSB2 | usb0 | cdc-wdm0",
		},
		"sticks": {
			"3-1 1546:1146 u-blox ttyACM0 ttyACM1 | usb0 | ",
			"3-3 1bc7:1201 Telit ttyUSB2 ttyUSB1 ttyUSB3 ttyUSB0 | wwan0 | cdc-wdm0",
			"3-4 19d2:1405 ZTE ttyUSB4 ttyUSB5 | usb1 | ",
			"3-5 0e8d:7127 Fibocom ttyUSB6 ttyUSB7 | usb2 | ",
		},
	} {
		root := t.TempDir()
		plant(t, root, layout(t, name))
		var got []string
		for _, p := range scan(root) {
			got = append(got, p.path+" "+p.id+" "+p.maker+" "+strings.Join(p.ports, " ")+" | "+strings.Join(p.nets, " ")+" | "+strings.Join(p.controls, " "))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s:\ngot  %s\nwant %s", name, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
		}
	}
	if got := scan(t.TempDir()); len(got) != 0 {
		t.Errorf("nothing: %+v", got)
	}
}

// A bench is a machine with modems on some of its ports; the others are silent.
type bench struct {
	root string
	mu   sync.Mutex
	sims map[string]*modemtest.Modem // by the name of the port
	used []string                    // ports that were opened
}

func newBench(t *testing.T, description string) (*bench, FindConfig) {
	t.Helper()
	b := &bench{root: t.TempDir(), sims: map[string]*modemtest.Modem{}}
	plant(t, filepath.Join(b.root, "sys"), description)
	return b, FindConfig{
		Root: filepath.Join(b.root, "sys"), Dev: "/dev", Proc: filepath.Join(b.root, "proc"), Open: b.open,
	}
}

func (b *bench) open(ctx context.Context, port string) (io.ReadWriteCloser, error) {
	b.mu.Lock()
	b.used = append(b.used, port)
	sim := b.sims[filepath.Base(port)]
	b.mu.Unlock()
	if sim != nil {
		return sim.Dial(ctx)
	}
	return newMute(), nil
}

// A mute port takes everything and says only what a receiver for positions does.
type mute struct {
	net.Conn
	other net.Conn
	ends  *sync.WaitGroup
}

func newMute() mute {
	client, server := net.Pipe()
	m := mute{client, server, &sync.WaitGroup{}}
	m.ends.Go(func() { io.Copy(io.Discard, server) })
	m.ends.Go(func() { io.WriteString(server, "$GPGSV,1,1,00*79\r\n\x7e\x01\x02\x7e") })
	return m
}

func (m mute) Close() error {
	err := errors.Join(m.Conn.Close(), m.other.Close())
	m.ends.Wait()
	return err
}

// plug starts a modem on a port; it runs until the test ends.
func (b *bench) plug(t *testing.T, port string, cfg modemtest.Config) *modemtest.Modem {
	t.Helper()
	sim, err := modemtest.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { sim.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	b.mu.Lock()
	b.sims[port] = sim
	b.mu.Unlock()
	return sim
}

// hold has a process of the name have a port open.
func (b *bench) hold(t *testing.T, name, port string) {
	t.Helper()
	fds := filepath.Join(b.root, "proc/99999/fd")
	if err := errors.Join(
		os.MkdirAll(fds, 0o755),
		os.Symlink(port, filepath.Join(fds, filepath.Base(port))),
		os.WriteFile(filepath.Join(b.root, "proc/99999/comm"), []byte(name+"\n"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
}

// summary is a list of modems in words.
func summary(found []Found) string {
	var out []string
	for _, f := range found {
		line := f.Path + " " + f.Name() + " " + f.Port
		if f.Err != nil {
			line = f.Path + ": " + f.Err.Error()
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

const imei = "49015420323751"

func findAll(t *testing.T, cfg FindConfig) (string, time.Duration) {
	t.Helper()
	start := time.Now()
	found, err := Find(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return summary(found), time.Since(start)
}

func TestFind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, cfg := newBench(t, layout(t, "hub"))
		b.plug(t, "ttyUSB2", modemtest.Config{IMEI: imei + "1"})
		b.plug(t, "ttyUSB7", modemtest.Config{IMEI: imei + "2", Profile: modemtest.SIMCom}) // not where the table says
		b.plug(t, "ttyUSB11", modemtest.Config{IMEI: imei + "3", Profile: modemtest.Huawei, NoSIM: true})
		got, took := findAll(t, cfg)
		want := "1-1.1 490154203237511 /dev/ttyUSB2\n" +
			"1-1.2 490154203237512 /dev/ttyUSB7\n" +
			"1-1.3 490154203237513 /dev/ttyUSB11\n" +
			"1-1.5.2: /dev/ttyUSB15: timed out"
		if got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
		if took > findTime {
			t.Errorf("took %v", took)
		}
		if slices.Contains(b.used, "/dev/ttyUSB12") {
			t.Error("asked something that is no modem")
		}
	})
}

// TestFindBounded has every port of every modem be silent.
func TestFindBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, cfg := newBench(t, layout(t, "hub")+layout(t, "sticks"))
		got, took := findAll(t, cfg)
		if took > findTime || strings.Count(got, "timed out") != 8 {
			t.Errorf("took %v:\n%s", took, got)
		}
		time.Sleep(time.Minute) // simulated: nothing is left
	})
}

func TestFindRouter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, cfg := newBench(t, layout(t, "router"))
		b.plug(t, "wwan0at0", modemtest.Config{IMEI: imei + "8", Profile: modemtest.Quectel5})
		b.plug(t, "ttyUSB1", modemtest.Config{IMEI: imei + "9", Profile: modemtest.Fibocom})
		got, _ := findAll(t, cfg)
		want := "0000:01:00.0 490154203237518 /dev/wwan0at0\n" +
			"1-2: no AT port: the modem acts as a router of its own\n" +
			"1-3: the USB device is not authorised\n" +
			"2-1 490154203237519 /dev/ttyUSB1"
		if got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}

// TestFindHeld has others use ports: pppd leaves one free, ModemManager has the
// whole modem.
func TestFindHeld(t *testing.T) {
	for name, test := range map[string]struct{ holder, port, want string }{
		"pppd":              {"pppd", "/dev/ttyUSB1", "2-1 490154203237519 /dev/ttyUSB2"},
		"pppd on the other": {"pppd", "/dev/ttyUSB2", "2-1: /dev/ttyUSB2 is in use by pppd, process 99999"},
		"ModemManager":      {"ModemManager", "/dev/cdc-wdm0", "2-1: /dev/cdc-wdm0 is in use by ModemManager, process 99999"},
		"uqmi":              {"uqmi", "/dev/cdc-wdm0", "2-1 490154203237519 /dev/ttyUSB2"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, cfg := newBench(t, layout(t, "router"))
				b.plug(t, "ttyUSB2", modemtest.Config{IMEI: imei + "9", Profile: modemtest.Fibocom})
				b.hold(t, test.holder, test.port)
				got, _ := findAll(t, cfg)
				if !strings.HasSuffix(got, test.want) {
					t.Errorf("got\n%s\nwant\n%s", got, test.want)
				}
				if slices.Contains(b.used, test.port) {
					t.Error("opened a port that another program has")
				}
				found, err := Find(t.Context(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				held, is := errors.AsType[HeldError](found[len(found)-1].Err)
				if want := strings.Contains(test.want, "in use"); is != want || held.ModemManager() != (name == "ModemManager") {
					t.Errorf("%v", found[len(found)-1].Err)
				}
			})
		})
	}
}

// TestHolders looks at the real /proc: a file that this process has open is
// found there, and what cannot be read does not matter.
func TestHolders(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "ttyUSB2"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	held := holders("/proc", dir)
	h, ok := held[f.Name()]
	if len(held) != 1 || !ok || h.PID != os.Getpid() || h.Name == "" {
		t.Errorf("%+v", held)
	}
	if e := (HeldError{Port: f.Name(), Holder: h}); !strings.HasSuffix(e.Error(), "in use by this program") {
		t.Error(e)
	}
}

// TestWatch follows a modem that starts slowly, restarts under other names and
// goes, and leaves it alone in between.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const quectel = "usb 1-1 2c7c:0125 %d\n 2 ff/00/00 ttyUSB%d\n 3 ff/00/00 ttyUSB%d\n"
		b, cfg := newBench(t, "")
		ctx, cancel := context.WithCancel(t.Context())
		events, lists := make(chan struct{}, 1), make(chan string, 10)
		var watching sync.WaitGroup
		watching.Go(func() {
			watch(ctx, cfg, watched{events, pollSlow}, func(found []Found) { lists <- summary(found) })
		})
		expect := func(want string, within time.Duration) {
			t.Helper()
			late := time.NewTimer(within)
			defer late.Stop()
			select {
			case got := <-lists:
				if got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			case <-late.C:
				t.Errorf("no list within %v, want %q", within, want)
			}
		}
		replace := func(description string) {
			if err := os.RemoveAll(cfg.Root); err != nil {
				t.Fatal(err)
			}
			plant(t, cfg.Root, description)
		}
		expect("", time.Second)
		sim := b.plug(t, "ttyUSB0", modemtest.Config{IMEI: imei + "8", Faults: modemtest.Faults{Boot: 20 * time.Second}})
		replace(fmt.Sprintf(quectel, 4, 0, 1))
		for range 3 {
			events <- struct{}{}
			synctest.Wait()
		}
		expect("1-1: /dev/ttyUSB0: timed out", 10*time.Second)
		expect("1-1 490154203237518 /dev/ttyUSB0", time.Minute)

		opened := len(b.used)
		time.Sleep(time.Hour) // simulated: no event, no question
		if len(b.used) != opened || len(lists) != 0 {
			t.Errorf("asked again: %q", b.used[opened:])
		}
		b.mu.Lock()
		b.sims = map[string]*modemtest.Modem{"ttyUSB5": sim}
		b.mu.Unlock()
		replace(fmt.Sprintf(quectel, 5, 5, 6))
		expect("1-1 490154203237518 /dev/ttyUSB5", pollSlow*9/8+findTime) // even without an event
		replace("")
		events <- struct{}{}
		expect("", plugLimit)
		cancel()
		watching.Wait()
	})
}

// TestWatchKernel has the kernel tell of a device that is added, where the test
// may make it do so.
func TestWatchKernel(t *testing.T) {
	socket, err := openUevents()
	if err != nil {
		t.Fatal(err)
	}
	events := make(chan struct{}, 1)
	var reading sync.WaitGroup
	reading.Go(func() { readUevents(socket, events) })
	// A made-up "add" of a terminal that is there: harmless, and only root may.
	if err := os.WriteFile("/sys/class/tty/ptmx/uevent", []byte("add"), 0); err == nil {
		<-events
	} else if os.Getenv("CI") == "" || !errors.Is(err, os.ErrPermission) && !errors.Is(err, os.ErrNotExist) {
		t.Logf("the kernel cannot be made to speak: %v", err)
	}
	socket.Close()
	reading.Wait()

	ctx, cancel := context.WithCancel(t.Context())
	err = Watch(ctx, FindConfig{Root: t.TempDir(), Proc: t.TempDir()}, func(found []Found) {
		if len(found) != 0 {
			t.Errorf("found %+v", found)
		}
		cancel()
	})
	if err != nil {
		t.Error(err)
	}
}

func FuzzModemEvent(f *testing.F) {
	f.Add([]byte("add@/devices/x\x00ACTION=add\x00DEVPATH=/devices/x\x00SUBSYSTEM=tty\x00SEQNUM=1\x00"))
	f.Add([]byte("libudev\x00\xfe\xed\xca\xfe"))
	f.Fuzz(func(t *testing.T, message []byte) {
		if modemEvent(message) && !strings.Contains(string(message), "SUBSYSTEM=") {
			t.Errorf("%q", message)
		}
	})
}

// TestFindTTY finds a modem on a real terminal.
func TestFindTTY(t *testing.T) {
	dir := t.TempDir()
	plant(t, filepath.Join(dir, "sys"), "usb 1-1 2c7c:0125 4\n 2 ff/00/00 ttyUSB2\n")
	if err := os.MkdirAll(filepath.Join(dir, "dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	sim, err := modemtest.New(modemtest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready := make(chan string, 1)
	var running sync.WaitGroup
	running.Go(func() {
		if err := sim.RunPTY(ctx, filepath.Join(dir, "dev/ttyUSB2"), func(tty string) { ready <- tty }); err != nil {
			t.Error(err)
		}
	})
	<-ready
	// A machine that is very busy may take longer than a modem may.
	for range 10 {
		found, err := Find(ctx, FindConfig{Root: filepath.Join(dir, "sys"), Dev: filepath.Join(dir, "dev"), Proc: filepath.Join(dir, "none")})
		if err != nil || len(found) != 1 {
			t.Fatalf("%+v, %v", found, err)
		}
		if errors.Is(found[0].Err, ErrTimeout) {
			continue
		}
		if found[0].IMEI != "490154203237518" || filepath.Base(found[0].Port) != "ttyUSB2" {
			t.Errorf("%+v", found[0])
		}
		break
	}
	cancel()
	running.Wait()
}
