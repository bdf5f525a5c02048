package seller

import (
	"errors"
	"syscall"
)

// bindTo returns a function that ties a socket to the interface of that name
// (socket(7), SO_BINDTODEVICE).
func bindTo(name string) (func(fd uintptr) error, error) {
	if len(name) >= syscall.IFNAMSIZ {
		return nil, errors.New("the name is too long")
	}
	return func(fd uintptr) error { return syscall.BindToDevice(int(fd), name) }, nil
}
