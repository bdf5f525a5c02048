package modem

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A tty is an open serial port, held exclusively. Its descriptor does not
// block, so that Close ends Read and Write.
type tty struct{ file *os.File }

// speeds are the baud rates that AT ports use; USB modems ignore them.
var speeds = map[int]uint32{
	9600: unix.B9600, 19200: unix.B19200, 38400: unix.B38400, 57600: unix.B57600, 115200: unix.B115200,
	230400: unix.B230400, 460800: unix.B460800, 921600: unix.B921600, 3000000: unix.B3000000,
}

func openTTY(name string, baud int) (*tty, error) {
	file, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := setUp(file, baud); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", name, err), file.Close())
	}
	return &tty{file}, nil
}

// setUp makes the port raw, 8N1 without flow control (termios(3), cfmakeraw),
// and throws away what the modem said to nobody.
func setUp(file *os.File, baud int) error {
	speed, ok := speeds[baud]
	if !ok {
		return fmt.Errorf("speed of %d baud is not known", baud)
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = setTermios(int(fd), speed)
	})
	return errors.Join(err, failed)
}

func setTermios(fd int, speed uint32) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err // not a tty
	}
	t.Iflag = unix.IGNBRK
	t.Oflag, t.Lflag = 0, 0
	t.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | speed
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return err
	}
	if err := unix.IoctlSetInt(fd, unix.TIOCEXCL, 0); err != nil {
		return err
	}
	return unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIFLUSH)
}

func (t *tty) Read(p []byte) (int, error)  { return t.file.Read(p) }
func (t *tty) Write(p []byte) (int, error) { return t.file.Write(p) }

// Close drops what was not sent, which the kernel would else wait for, and
// lets others open the port.
func (t *tty) Close() error {
	raw, err := t.file.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { // a port that was unplugged takes neither
			_ = unix.IoctlSetInt(int(fd), unix.TCFLSH, unix.TCOFLUSH)
			_ = unix.IoctlSetInt(int(fd), unix.TIOCNXCL, 0)
		})
	}
	return errors.Join(err, t.file.Close())
}
