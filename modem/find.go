package modem

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// FindConfig says where to look for modems.
type FindConfig struct {
	// Root, Dev and Proc are /sys, /dev and /proc when empty.
	Root, Dev, Proc string
	// Known returns the modems that are in use by the caller. They are not asked
	// again while their port is where it was. Nil: none is.
	Known func() []Found
	// Open opens a port; nil opens the tty.
	Open func(ctx context.Context, port string) (io.ReadWriteCloser, error)
	// Logger gets Debug lines only. Nil discards.
	Logger *slog.Logger
}

func (c FindConfig) withDefaults() FindConfig {
	if c.Root == "" {
		c.Root = "/sys"
	}
	if c.Dev == "" {
		c.Dev = "/dev"
	}
	if c.Proc == "" {
		c.Proc = "/proc"
	}
	if c.Known == nil {
		c.Known = func() []Found { return nil }
	}
	if c.Open == nil {
		c.Open = func(_ context.Context, port string) (io.ReadWriteCloser, error) { return openTTY(port, 115200) }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// How long finding may take: a port, and everything.
const (
	portTime = 3 * time.Second
	findTime = 15 * time.Second
)

// A Found is one modem of this machine.
type Found struct {
	// Path is where it is plugged in, which a restart does not change: 1-1.2 on
	// USB, 0000:01:00.0 on PCIe.
	Path  string
	ID    string // vendor:product
	Maker string // by its USB number; "" on PCIe
	IMEI  string // "" when it did not say
	Port  string // that answered AT commands; "" when none did, and Err says why
	// Nets are its network interfaces, Controls its devices for QMI or MBIM.
	Nets, Controls []string
	// Err is why there is no Port: ErrNoPort, ErrUnauthorized, a HeldError, or
	// what the ports said.
	Err error

	enumerated string
	ports      []string
}

// Name is what to call the modem: by its IMEI, else by where it is.
func (f Found) Name() string {
	if f.IMEI != "" {
		return f.IMEI
	}
	return f.Path
}

// equal says whether a caller would do the same with both.
func (f Found) equal(g Found) bool {
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	return f.Path == g.Path && f.ID == g.ID && f.IMEI == g.IMEI && f.Port == g.Port && f.enumerated == g.enumerated &&
		slices.Equal(f.Nets, g.Nets) && slices.Equal(f.Controls, g.Controls) && text(f.Err) == text(g.Err)
}

var (
	// ErrNoModem says that the modem that was asked for is not plugged in.
	ErrNoModem = errors.New("no such modem is plugged in")
	// ErrNoPort says that a modem has no port for AT commands: a stick that is a
	// router of its own, whose SIM cannot be read.
	ErrNoPort = errors.New("no AT port: the modem acts as a router of its own")
	// ErrUnauthorized says that the kernel was told to leave the device alone.
	ErrUnauthorized = errors.New("the USB device is not authorised")
)

// A HeldError says that another program has the modem's port open, or that this
// one has and did not say so by FindConfig.Known. Two on one port mix up each
// other's answers, so it was left alone.
type HeldError struct {
	Port   string
	Holder Holder
}

func (e HeldError) Error() string {
	name := e.Holder.Name
	switch {
	case e.Holder.PID == os.Getpid():
		return e.Port + " is in use by this program"
	case name == "":
		name = "another program"
	}
	return fmt.Sprintf("%s is in use by %s, process %d", e.Port, name, e.Holder.PID)
}

// ModemManager says whether it is ModemManager, which can be asked over D-Bus.
func (e HeldError) ModemManager() bool { return e.Holder.Name == modemManager }

// Hint is what the owner can do about it; asked says that this program asks
// ModemManager over D-Bus where it has a modem.
func (e HeldError) Hint(asked bool) string {
	switch {
	case e.ModemManager() && asked:
		return "nothing to do: ModemManager is asked over D-Bus"
	case e.ModemManager():
		return "this build cannot ask ModemManager, having no D-Bus: stop it, or have it leave the port alone by the udev rule ENV{ID_MM_PORT_IGNORE}=\"1\""
	}
	return "stop what uses the port, or have it use another one of the modem's"
}

const modemManager = "ModemManager"

// Find lists the modems of this machine, ordered by where they are. It asks
// only devices of makers of modems, each on one port after the other, all at
// once, and never a port that another program has open. It takes 15 s at most;
// what has not answered by then has an Err. It fails only when ctx ends.
func Find(ctx context.Context, cfg FindConfig) ([]Found, error) {
	cfg = cfg.withDefaults()
	return cfg.find(ctx, cfg.Known())
}

// find leaves those in peace that are in kept, unchanged and were understood.
func (c FindConfig) find(ctx context.Context, kept []Found) ([]Found, error) {
	all, cancel := context.WithTimeout(ctx, findTime)
	defer cancel()
	places := scan(c.Root)
	held := holders(c.Proc, c.Dev)
	found := make([]Found, len(places))
	var asking sync.WaitGroup
	for i, p := range places {
		found[i] = Found{Path: p.path, ID: p.id, Maker: p.maker, Nets: p.nets, Controls: p.controls, enumerated: p.enumerated, ports: p.ports}
		if before := slices.IndexFunc(kept, found[i].same); before >= 0 {
			found[i].IMEI, found[i].Port = kept[before].IMEI, kept[before].Port
			continue
		}
		asking.Go(func() { c.ask(all, p, held, &found[i]) })
	}
	asking.Wait()
	return found, ctx.Err()
}

// same says whether g is this modem and was understood before.
func (f Found) same(g Found) bool {
	return g.Port != "" && g.Path == f.Path && g.ID == f.ID && g.enumerated == f.enumerated && slices.Equal(g.ports, f.ports)
}

// There says whether the kernel, whose sysfs is at root ("" is /sys), still has
// the modem as it was found: on the same ports, and never unplugged.
func (f Found) There(root string) bool {
	for _, p := range scan(FindConfig{Root: root}.withDefaults().Root) {
		if p.path == f.Path {
			return p.id == f.ID && p.enumerated == f.enumerated && slices.Equal(p.ports, f.ports)
		}
	}
	return false
}

// ask looks for the port of one modem. ModemManager has all of a modem or
// nothing of it; what others hold is one port.
func (c FindConfig) ask(ctx context.Context, p place, held map[string]Holder, f *Found) {
	var taken *HeldError
	free := make([]string, 0, len(p.ports))
	for _, name := range slices.Concat(p.ports, p.controls) {
		port := filepath.Join(c.Dev, name)
		holder, is := held[port]
		switch {
		case is && (taken == nil || holder.Name == modemManager):
			taken = &HeldError{Port: port, Holder: holder}
		case !is && slices.Contains(p.ports, name):
			free = append(free, port)
		}
	}
	switch {
	case taken != nil && taken.ModemManager():
		f.Err = *taken
		return
	case p.unauthorized:
		f.Err = ErrUnauthorized
		return
	case len(p.ports) == 0:
		f.Err = ErrNoPort
		return
	case len(free) == 0:
		f.Err = *taken // all ports are taken, so there is one
		return
	}
	for _, port := range free {
		imei, err := c.probe(ctx, port)
		c.Logger.DebugContext(ctx, "probed", "modem", p.path, "port", port, "imei", imei, "err", err)
		if err == nil {
			f.IMEI, f.Port, f.Err = imei, port, nil
			return
		}
		if f.Err == nil {
			f.Err = fmt.Errorf("%s: %w", port, err) // that of the likeliest port
		}
	}
	if taken != nil {
		f.Err = *taken
	}
}

// probe asks for the IMEI on a port, for portTime at most. A modem that does not
// say it is one all the same.
func (c FindConfig) probe(ctx context.Context, port string) (imei string, err error) {
	ctx, cancel := context.WithTimeout(ctx, portTime)
	defer cancel()
	open := func(ctx context.Context) (io.ReadWriteCloser, error) { return c.Open(ctx, port) }
	m, err := Open(ctx, Config{Open: open, Timeout: portTime})
	if err != nil {
		return "", timedOut(err)
	}
	defer m.end(ctx.Done())
	err = m.do(ctx, func() error { return m.readDevice(ctx) })
	if err != nil {
		return "", timedOut(err)
	}
	return m.device.imei, nil // the owner is done with it
}

// timedOut calls the end of our own patience what it is to the caller.
func timedOut(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return ErrTimeout
	}
	return err
}
