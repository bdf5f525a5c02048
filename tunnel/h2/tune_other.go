//go:build !linux

package h2

import "net"

// tune does nothing: its options are Linux's.
func tune(net.Conn) {}
