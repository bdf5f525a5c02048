package agent

import (
	"errors"
	"io/fs"
	"net"
	"os"
)

// ListenPrivate makes a unix socket with mode 0600, in place of one that was left
// at path. It is never open to others, not even before its mode is set: it is made
// under another name first. Who closes it removes it.
func ListenPrivate(path string) (net.Listener, error) {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(tmp, 0o600), os.Rename(tmp, path)); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}
