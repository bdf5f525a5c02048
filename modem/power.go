package modem

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Power is how the owner has the modem's power cut. One of Command, File and
// Chip; the zero Power: there is none.
type Power struct {
	// Command is a program, by its whole path, and its arguments. It cuts the
	// power and gives it back, and has a minute for that.
	Command []string
	// File gets Off, and On after OffTime, such as the value of a GPIO in sysfs;
	// "0" and "1" when they are empty.
	File    string
	Off, On string
	// Chip is a GPIO chip such as /dev/gpiochip0, and Line the number of a line
	// of it that is high for power, or low with ActiveLow. It is held from the
	// first use on: what was let go may float.
	Chip      string
	Line      int
	ActiveLow bool
	// OffTime is how long the power is off, 5 s when zero.
	OffTime time.Duration
}

// commandTime is how long Power.Command may take.
const commandTime = time.Minute

// IsZero says whether there is no power to cut.
func (p Power) IsZero() bool { return len(p.Command) == 0 && p.File == "" && p.Chip == "" }

func (p Power) withDefaults() (Power, error) {
	ways := 0
	for _, given := range []bool{len(p.Command) > 0, p.File != "", p.Chip != ""} {
		if given {
			ways++
		}
	}
	switch {
	case ways > 1:
		return p, errors.New("modem: Power: want one of Command, File and Chip")
	case len(p.Command) > 0 && !filepath.IsAbs(p.Command[0]):
		return p, fmt.Errorf("modem: Power: Command: %q is not a whole path", p.Command[0])
	case p.Line < 0:
		return p, fmt.Errorf("modem: Power: Line: %d is negative", p.Line)
	case p.OffTime < 0 || p.OffTime > commandTime:
		return p, fmt.Errorf("modem: Power: OffTime: %v is not within 0 and %v", p.OffTime, commandTime)
	}
	if p.OffTime == 0 {
		p.OffTime = 5 * time.Second
	}
	if p.Off == "" {
		p.Off = "0"
	}
	if p.On == "" {
		p.On = "1"
	}
	return p, nil
}

// cycle cuts the power and gives it back, also when ctx ends in between. line is
// the GPIO line from the use before, nil at first; the one to keep is returned.
func (p Power) cycle(ctx context.Context, line *os.File) (*os.File, error) {
	switch {
	case len(p.Command) > 0:
		return line, run(ctx, p.Command)
	case p.File != "":
		return line, offAndOn(ctx, p.OffTime, func(on bool) error {
			return writeFile(p.File, map[bool]string{true: p.On, false: p.Off}[on])
		})
	}
	if line == nil {
		var err error
		if line, err = requestLine(p.Chip, p.Line, p.ActiveLow); err != nil {
			return nil, err
		}
	}
	return line, offAndOn(ctx, p.OffTime, func(on bool) error { return setLine(line, on) })
}

// run runs a program with nothing to read and nowhere to write, in a process
// group that ends with it, or with ctx or commandTime.
func run(ctx context.Context, command []string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	p, err := os.StartProcess(command[0], command, &os.ProcAttr{
		Env: os.Environ(), Files: []*os.File{null, null, null}, Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return fmt.Errorf("power command: %w", err)
	}
	ended := make(chan struct{}) // closed by the waiter
	var state *os.ProcessState
	var waiter sync.WaitGroup
	waiter.Go(func() {
		defer close(ended)
		state, err = p.Wait()
	})
	select {
	case <-ended:
	case <-ctx.Done():
		_ = syscall.Kill(-p.Pid, syscall.SIGKILL) // it may have ended just now
	}
	waiter.Wait()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("power command: %w", ctx.Err())
	case err != nil:
		return fmt.Errorf("power command: %w", err)
	case !state.Success():
		return fmt.Errorf("power command: %s", state)
	}
	return nil
}

// offAndOn switches off, waits, and switches on whatever happened.
func offAndOn(ctx context.Context, wait time.Duration, set func(on bool) error) error {
	err := set(false)
	if err == nil {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	return errors.Join(err, set(true))
}

// writeFile writes to a file that must be there, as those in sysfs are.
func writeFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, text)
	return errors.Join(err, f.Close())
}

// lineRequest is struct gpio_v2_line_request of the kernel's linux/gpio.h, for
// one line; lineValues is struct gpio_v2_line_values.
type lineRequest struct {
	offsets   [64]uint32
	consumer  [32]byte
	flags     uint64
	attrs     uint32
	_         [5]uint32
	attr      [10]lineAttribute
	lines     uint32
	eventSize uint32
	_         [5]uint32
	fd        int32
}

type lineAttribute struct {
	id    uint32
	_     uint32
	value uint64
	mask  uint64
}

type lineValues struct{ bits, mask uint64 }

// Numbers of linux/gpio.h. The two calls are _IOWR, whose number is the same on
// every architecture.
const (
	gpioGetLine      = 0xc250b407
	gpioSetValues    = 0xc010b40f
	gpioActiveLow    = 1 << 1
	gpioOutput       = 1 << 3
	gpioOutputValues = 2 // the attribute with the value to begin with
)

// requestLine takes a line of a chip as an output that is on.
func requestLine(chip string, number int, activeLow bool) (*os.File, error) {
	dev, err := os.OpenFile(chip, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	r := lineRequest{flags: gpioOutput, attrs: 1, lines: 1}
	r.offsets[0] = uint32(number)
	copy(r.consumer[:], "modem power")
	r.attr[0] = lineAttribute{id: gpioOutputValues, value: 1, mask: 1}
	if activeLow {
		r.flags |= gpioActiveLow
	}
	if err := gpioCall(dev, gpioGetLine, unsafe.Pointer(&r)); err != nil {
		return nil, fmt.Errorf("%s: line %d: %w", chip, number, err)
	}
	return os.NewFile(uintptr(r.fd), chip), nil
}

func setLine(line *os.File, on bool) error {
	v := lineValues{mask: 1}
	if on {
		v.bits = 1
	}
	if err := gpioCall(line, gpioSetValues, unsafe.Pointer(&v)); err != nil {
		return fmt.Errorf("%s: %w", line.Name(), err)
	}
	return nil
}

func gpioCall(f *os.File, number uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), number, uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}
