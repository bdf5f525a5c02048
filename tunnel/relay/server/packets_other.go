//go:build !linux

package server

import (
	"context"
	"errors"
)

type worker struct{}

// A forwarder is the packet path. It exists for Linux alone, whose sockets
// take and give many packets at once.
type forwarder struct{}

func newForwarder(*packetConfig, int) (*forwarder, error) {
	return nil, errors.New("a relay needs Linux")
}

func (f *forwarder) run(context.Context) error              { return nil }
func (f *forwarder) open(*session) (p [2]uint16, err error) { return p, errors.ErrUnsupported }
func (f *forwarder) assign(*session)                        {}
func (f *forwarder) close(*session)                         {}
func (f *forwarder) discard() error                         { return nil }
