package netlab

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const tunDevice = "/dev/net/tun"

func supported() error { return nil }

// dieWithParent has the command killed when the thread that starts it ends. That
// is when the process does, as long as no goroutine ends that is locked to its
// thread: that ends the thread, on which others may have started commands before.
func dieWithParent(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// inside calls f on a thread in the network namespace at path.
func inside(path string, f func() error) (err error) {
	to, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(to)
	runtime.LockOSThread()
	back, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open /proc/thread-self/ns/net: %w", err)
	}
	defer unix.Close(back)
	if err := unix.Setns(to, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("setns: %w", err)
	}
	defer func() {
		if e := unix.Setns(back, unix.CLONE_NEWNET); e != nil {
			// The thread stays locked and so ends with its goroutine: nobody
			// else must run on it.
			err = errors.Join(err, fmt.Errorf("setns back: %w", e))
			return
		}
		runtime.UnlockOSThread()
	}()
	return f()
}

// onOwnThread calls f on a thread that no other goroutine uses meanwhile, with a
// real time priority and exact timers as far as the kernel allows it.
func onOwnThread(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tid := unix.Gettid()
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: schedRR, Priority: 1}
	if unix.SchedSetAttr(tid, &attr, 0) != nil {
		_ = unix.Setpriority(unix.PRIO_PROCESS, tid, -20)
	}
	// In nanoseconds; a thread without real time priority may be woken 50 µs
	// late else (prctl(2)). It is only exactness that is lost if it fails.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	defer func() { // whoever may go up may go down again
		_ = unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr}, 0)
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) // the default
	}()
	return f()
}

const schedRR = 2 // SCHED_RR of sched(7)

// A tun is one end of a link.
type tun struct {
	fd   int
	wake int // an eventfd that ends wait
}

// openTUN makes a TUN interface in the namespace of the calling thread.
func openTUN(name string) (*tun, error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &tun{fd, wake}, nil
}

// read returns the size of the next packet, 0 if there is none.
func (t *tun) read(b []byte) (int, error) {
	for {
		n, err := unix.Read(t.fd, b)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, unix.EAGAIN):
			return 0, nil
		case !errors.Is(err, unix.EINTR):
			return 0, fmt.Errorf("read tun: %w", err)
		}
	}
}

func (t *tun) write(b []byte) error {
	for {
		_, err := unix.Write(t.fd, b)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// wait waits for a packet, for ever if d is negative, and says whether it was
// stopped.
func (t *tun) wait(d time.Duration) (stopped bool, err error) {
	fds := []unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLIN}, {Fd: int32(t.wake), Events: unix.POLLIN}}
	var timeout *unix.Timespec
	if d >= 0 {
		ts := unix.NsecToTimespec(int64(d))
		timeout = &ts
	}
	if _, err := unix.Ppoll(fds, timeout, nil); err != nil && !errors.Is(err, unix.EINTR) {
		return false, fmt.Errorf("ppoll: %w", err)
	}
	return fds[1].Revents != 0, nil
}

// stop ends wait, now and later.
func (t *tun) stop() error {
	_, err := unix.Write(t.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	return err
}

// close removes the interface. Nobody waits.
func (t *tun) close() error { return errors.Join(unix.Close(t.fd), unix.Close(t.wake)) }

// Congestion has a TCP socket, or the connections that a listener accepts, use a
// congestion control of the kernel's: cubic, bbr. It is for the Control of
// net.ListenConfig and net.Dialer. (A namespace's default cannot be set to one
// that the system restricts, even by root.)
func Congestion(name string) func(network, address string, conn syscall.RawConn) error {
	return func(_, _ string, conn syscall.RawConn) error {
		var err error
		if e := conn.Control(func(fd uintptr) {
			err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, name)
		}); e != nil {
			return e
		}
		if err != nil {
			return fmt.Errorf("congestion control %s: %w", name, err)
		}
		return nil
	}
}
