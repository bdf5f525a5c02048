package modem

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// plugQuiet is how long no event may come before a look is taken, since a
	// modem that is plugged in makes dozens; plugLimit is how long that may take.
	plugQuiet = time.Second
	plugLimit = 5 * time.Second
	// pollSlow is how often a look is taken without an event, pollBlind where
	// the kernel's events cannot be had.
	pollSlow  = 5 * time.Minute
	pollBlind = 30 * time.Second
	// retryMin is how soon a modem without a port is asked again; it doubles up
	// to pollSlow. Modems need up to half a minute to start.
	retryMin = 5 * time.Second
)

// Watch finds modems as Find does and again whenever one comes or goes, until
// ctx ends; it then returns nil. found is called with the first list and with
// each that differs from the one before, one call after the other. A modem that
// was understood is not asked again until the kernel has enumerated it anew.
func Watch(ctx context.Context, cfg FindConfig, found func([]Found)) error {
	// Events wake up watch, which looks by itself what there is: one that finds
	// the channel full adds nothing.
	events := make(chan struct{}, 1)
	poll := pollSlow
	socket, err := openUevents()
	if err != nil {
		poll = pollBlind
		cfg.withDefaults().Logger.DebugContext(ctx, "no hotplug events: polling", "every", poll, "err", err)
		watch(ctx, cfg, watched{events, poll}, found)
		return nil
	}
	var reading sync.WaitGroup
	reading.Go(func() { readUevents(socket, events) })
	watch(ctx, cfg, watched{events, poll}, found)
	err = socket.Close()
	reading.Wait()
	return err
}

// watched is when to look: at events, and after poll without one.
type watched struct {
	events <-chan struct{}
	poll   time.Duration
}

func watch(ctx context.Context, cfg FindConfig, w watched, found func([]Found)) {
	cfg = cfg.withDefaults()
	var last []Found
	retry := retryMin
	for first := true; ; first = false {
		list, err := cfg.find(ctx, slices.Concat(cfg.Known(), last))
		if err != nil {
			return
		}
		changed := first || !slices.EqualFunc(list, last, Found.equal)
		if last = list; changed {
			found(slices.Clone(list))
		}
		wait := w.poll
		if slices.ContainsFunc(list, func(f Found) bool { return f.Port == "" && f.Err != ErrNoPort }) {
			wait = min(retry, wait)
			retry *= 2
		} else {
			retry = retryMin
		}
		event, err := waitEvent(ctx, w.events, wait+rand.N(wait/8))
		if err != nil {
			return
		}
		if event {
			retry = retryMin
		}
	}
}

// waitEvent waits for an event and the silence after it, or for limit.
func waitEvent(ctx context.Context, events <-chan struct{}, limit time.Duration) (event bool, err error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-timer.C:
		return false, nil
	case <-events:
	}
	for end := time.Now().Add(plugLimit); ; {
		left := min(plugQuiet, time.Until(end))
		if left <= 0 {
			return true, nil
		}
		timer.Reset(left)
		select {
		case <-ctx.Done():
			return true, ctx.Err()
		case <-timer.C:
			return true, nil
		case <-events:
		}
	}
}

// openUevents opens the socket on which the kernel tells about devices
// (lib/kobject_uevent.c: group 1). Close ends a Read.
func openUevents() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return nil, errors.Join(os.NewSyscallError("bind", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "uevents"), nil
}

// readUevents wakes events up for each that is about modems, until the socket
// is closed. One that was lost because they came too fast is one, too.
func readUevents(socket *os.File, events chan<- struct{}) {
	buf := make([]byte, 8192)
	for {
		n, err := socket.Read(buf)
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		if err == nil && !modemEvent(buf[:n]) {
			continue
		}
		select {
		case events <- struct{}{}:
		default:
		}
	}
}

// modemEvent says whether a message is about a modem that came, went or was
// bound to its driver. It reads "add@/devices/…" and then KEY=value, all ended
// by zero bytes.
func modemEvent(message []byte) bool {
	action, subsystem := "", ""
	for field := range bytes.SplitSeq(message, []byte{0}) {
		if value, ok := bytes.CutPrefix(field, []byte("ACTION=")); ok {
			action = string(value)
		}
		if value, ok := bytes.CutPrefix(field, []byte("SUBSYSTEM=")); ok {
			subsystem = string(value)
		}
	}
	switch action {
	case "add", "remove", "bind", "unbind", "move":
	default:
		return false
	}
	switch subsystem {
	case "usb", "tty", "usbmisc", "net", "wwan", "usb-serial":
		return true
	}
	return false
}
