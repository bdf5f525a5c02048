package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/pprof"
	"sync"
)

const (
	// roleArg as first argument makes this program one of its roles.
	roleArg = "role"
	// roleEnv is set for all roles, so that a test's program can tell.
	roleEnv = "X402_BENCH_ROLE"
)

// A console is how a role is told what to do and says what came of it.
type console struct {
	dec *json.Decoder
	enc *json.Encoder
}

func roleMain(name string) int {
	roles := map[string]func(console) error{
		"site": site, "agent": agentRole, "buyer": buyerRole, "load": load, "delay": delay,
		"bare-agent": bareAgent, "relay": relayRole, "flood": floodRole, "bare-buyer": bareBuyer,
	}
	role, ok := roles[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "bench: no role %q\n", name)
		return 2
	}
	if err := role(console{json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)}); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	return 0
}

// serve runs until the standard input ends.
func (c console) serve(run func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { // if run fails, this ends with the process
		defer cancel()
		_, _ = io.Copy(io.Discard, io.MultiReader(c.dec.Buffered(), os.Stdin))
	})
	return run(ctx)
}

// profiled runs f, with a CPU profile of it in a file if that has a name.
func profiled(path string, f func() error) error {
	if path == "" {
		return f()
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := pprof.StartCPUProfile(file); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return f()
}
