//go:build !linux

package seller

import (
	"fmt"
	"runtime"
)

func bindTo(string) (func(fd uintptr) error, error) {
	return nil, fmt.Errorf("cannot be chosen on %s", runtime.GOOS)
}
