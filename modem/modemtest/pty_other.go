//go:build !unix

package modemtest

import (
	"context"
	"errors"
)

// RunPTY needs pseudo-terminals, which this system does not have.
func (m *Modem) RunPTY(context.Context, string, func(tty string)) error { return errors.ErrUnsupported }
