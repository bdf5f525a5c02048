//go:build !linux

package seller

import (
	"fmt"
	"runtime"
)

func canBind(string) error { return fmt.Errorf("cannot be chosen on %s", runtime.GOOS) }

func bindTo(uintptr, string) error { return canBind("") }
