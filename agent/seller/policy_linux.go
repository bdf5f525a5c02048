package seller

import (
	"errors"
	"syscall"
)

// canBind says whether sockets can be tied to an interface of that name.
func canBind(name string) error {
	if len(name) >= syscall.IFNAMSIZ {
		return errors.New("the name is too long")
	}
	return nil
}

// bindTo ties a socket to an interface (socket(7), SO_BINDTODEVICE).
func bindTo(fd uintptr, name string) error { return syscall.BindToDevice(int(fd), name) }
