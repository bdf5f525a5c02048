package modem

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.bug.st/serial"
	"golang.org/x/sys/unix"
)

// A tty is an open serial port. The serial package sets it up, holds it
// exclusively and flushes it; bytes go through a file of our own, because that
// package waits in select(2), which cannot watch descriptors from 1024 up (an
// agent with a thousand flows has them), and writes without a way out.
type tty struct {
	file *os.File // non-blocking: Close ends Read and Write
	port serial.Port
}

func openTTY(name string, baud int) (*tty, error) {
	// A link may point elsewhere by the time of the second open.
	name, err := filepath.EvalSymlinks(name)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	port, err := serial.Open(name, &serial.Mode{BaudRate: baud})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", name, err), file.Close())
	}
	// What the modem said to nobody is not an answer to anything.
	if err := port.ResetInputBuffer(); err != nil {
		return nil, errors.Join(fmt.Errorf("flush %s: %w", name, err), port.Close(), file.Close())
	}
	return &tty{file: file, port: port}, nil
}

func (t *tty) Read(p []byte) (int, error)  { return t.file.Read(p) }
func (t *tty) Write(p []byte) (int, error) { return t.file.Write(p) }

// Close drops what was not sent, which the kernel would else wait for.
func (t *tty) Close() error {
	return errors.Join(t.port.ResetOutputBuffer(), t.port.Close(), t.file.Close())
}
