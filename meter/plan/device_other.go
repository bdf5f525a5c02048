//go:build !linux

package plan

import "errors"

// A Device takes samples of this device and one of its network interfaces.
type Device struct{}

// NewDevice says that it cannot.
func NewDevice(string) (*Device, error) {
	return nil, errors.New("a data plan is kept on Linux only: nothing else counts its interfaces alike")
}

// Sample is never called.
func (*Device) Sample() (Sample, error) { return Sample{}, nil }

// Err is never called.
func (*Device) Err() error { return nil }
