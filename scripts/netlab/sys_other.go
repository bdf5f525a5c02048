//go:build !linux

package netlab

import (
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"
)

const tunDevice = "/dev/net/tun"

func supported() error { return fmt.Errorf("netlab: %w: it needs Linux", errors.ErrUnsupported) }

func dieWithParent(*exec.Cmd) {}

func inside(string, func() error) error { return supported() }

func onOwnThread(f func() error) error { return f() }

type tun struct{}

func openTUN(string) (*tun, error) { return nil, supported() }

func (*tun) read([]byte) (int, error)         { return 0, supported() }
func (*tun) write([]byte) error               { return supported() }
func (*tun) wait(time.Duration) (bool, error) { return true, supported() }
func (*tun) stop() error                      { return nil }
func (*tun) close() error                     { return nil }

// Congestion fails: it is Linux's.
func Congestion(string) func(network, address string, conn syscall.RawConn) error {
	return func(string, string, syscall.RawConn) error { return supported() }
}
