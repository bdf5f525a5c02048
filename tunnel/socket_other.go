//go:build !unix

package tunnel

import (
	"net"
	"syscall"
)

// socketOf returns nil: sockets are read with a buffer of the flow's own.
func socketOf(net.Conn) syscall.RawConn { return nil }

func (in *inlet) readSocket(uintptr) bool { panic("tunnel: no socket") }

func (d *datagrams) readSocket(uintptr) bool { panic("tunnel: no socket") }
