package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
)

// version is set by the linker.
var version = "unknown"

func printVersion(_ context.Context, _ []string, stdout, _ io.Writer) error {
	_, err := fmt.Fprintf(stdout, "x402 %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
