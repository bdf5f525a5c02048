//go:build unix

package modemtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// RunPTY serves a pseudo-terminal until ctx ends, and then returns nil. While the
// modem is plugged in link is a symbolic link to the terminal; ready, which may
// be nil, is told its name each time. A link left over is replaced, any other
// file is not.
func (m *Modem) RunPTY(ctx context.Context, link string, ready func(tty string)) error {
	for ctx.Err() == nil {
		err := m.servePTY(ctx, link, ready)
		if err != nil && !errors.Is(err, ErrUnplugged) {
			return err
		}
		m.untilPlugged(ctx)
	}
	return nil
}

// servePTY serves one terminal. Both sides of it stay open here: a client may
// come and go, and when this returns it reads an end of file.
func (m *Modem) servePTY(ctx context.Context, link string, ready func(tty string)) (err error) {
	if plugged, _, _ := m.watch(); !plugged {
		return ErrUnplugged
	}
	modem, tty, err := openPTY()
	if err != nil {
		return fmt.Errorf("pseudo-terminal: %w", err)
	}
	defer tty.Close()
	defer modem.Close()
	if link != "" {
		if err := relink(tty.Name(), link); err != nil {
			return err
		}
		defer unlink(tty.Name(), link)
	}
	if ready != nil {
		ready(tty.Name())
	}
	return m.Serve(ctx, modem)
}

// openPTY opens a terminal without echo and line editing: those are the
// modem's. The modem's side is opened anew as non-blocking, since Close would
// not end a Read otherwise.
func openPTY() (modem, tty *os.File, err error) {
	master, tty, err := pty.Open()
	if err != nil {
		return nil, nil, err
	}
	defer master.Close()
	if _, err = term.MakeRaw(int(tty.Fd())); err != nil {
		return nil, nil, errors.Join(err, tty.Close())
	}
	fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, nil, errors.Join(err, tty.Close())
	}
	return os.NewFile(uintptr(fd), master.Name()), tty, nil
}

// relink makes link point to tty at once, replacing a link that is there.
func relink(tty, link string) error {
	if info, err := os.Lstat(link); err == nil && info.Mode()&fs.ModeSymlink == 0 {
		return fmt.Errorf("link %s: there is a file with this name", link)
	}
	fresh := link + ".new" + strconv.Itoa(os.Getpid())
	if err := os.Symlink(tty, fresh); err != nil {
		return err
	}
	if err := os.Rename(fresh, link); err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	return nil
}

// unlink removes link if it still points to tty.
func unlink(tty, link string) {
	if now, err := os.Readlink(link); err == nil && now == tty {
		os.Remove(link)
	}
}
