package plan

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Device takes samples of this device and one of its network interfaces. One
// goroutine uses it.
type Device struct {
	dir  string // of the interface, in sysfs
	boot [16]byte
	buf  [32]byte
	err  error
}

const bootID = "/proc/sys/kernel/random/boot_id"

// NewDevice returns the device, with the interface of that name, which may come
// later.
func NewDevice(name string) (*Device, error) {
	if name == "" || len(name) >= unix.IFNAMSIZ || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
		return nil, fmt.Errorf("interface %.40q: not the name of one", name)
	}
	b, err := os.ReadFile(bootID)
	if err != nil {
		return nil, err
	}
	d := &Device{dir: filepath.Join("/sys/class/net", name)}
	raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(b)), "-", ""))
	if err != nil || copy(d.boot[:], raw) != len(d.boot) {
		return nil, fmt.Errorf("%s: %.60q is no UUID", bootID, b)
	}
	return d, nil
}

// Sample looks at the counters and clocks. Sold and Roaming are the caller's to
// fill in.
func (d *Device) Sample() (Sample, error) {
	in := Sample{Boot: d.boot, Wall: time.Now()}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return in, fmt.Errorf("clock: %w", err)
	}
	in.Up = time.Duration(up.Nano())
	in.Synced = synced()
	l, err := d.link()
	if d.err = err; err == nil {
		in.Link = &l
	}
	return in, nil
}

// Err is why the last sample has no link.
func (d *Device) Err() error { return d.err }

// synced says whether something disciplines the clock by NTP: the kernel says
// so (adjtimex(2)), or something uses its phase-locked loop. Older ntpds of
// BusyBox do that and leave the kernel to believe that the error is unbounded.
// Neither is so after a start, or when a clock was only set.
func synced() bool {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return err == nil && (state != unix.TIME_ERROR || t.Status&unix.STA_PLL != 0)
}

// arphrdEther is the type of interfaces that count Ethernet headers (Linux,
// if_arp.h). Modems' others are raw IP (519 and 65534) and PPP (512). Some
// drivers of Ethernet count no header of what is received: 1% of full packets,
// which is what the margin is for.
const arphrdEther = 1

// link reads the counters, bytes before packets.
func (d *Device) link() (l Link, err error) {
	index, err := d.read("ifindex")
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return l, fmt.Errorf("there is no network interface %s", filepath.Base(d.dir))
		}
		return l, err
	}
	kind, err := d.read("type")
	if err != nil {
		return l, err
	}
	l.Index, l.Framed = uint32(index), kind == arphrdEther
	for _, c := range []struct {
		name string
		into *uint64
	}{
		{"statistics/rx_bytes", &l.RxBytes}, {"statistics/tx_bytes", &l.TxBytes},
		{"statistics/rx_packets", &l.RxPackets}, {"statistics/tx_packets", &l.TxPackets},
	} {
		if *c.into, err = d.read(c.name); err != nil {
			return l, err
		}
	}
	return l, nil
}

// read reads a number. A file of sysfs is whole in one read.
func (d *Device) read(name string) (uint64, error) {
	f, err := os.Open(filepath.Join(d.dir, name))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n, err := f.Read(d.buf[:])
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseUint(strings.TrimSuffix(string(d.buf[:n]), "\n"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return v, nil
}
