package main

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

const mib = 1 << 20

// memTotal returns the device's memory in bytes, as the kernel says in a file
// like /proc/meminfo (proc_meminfo(5)); 0 if it does not.
func memTotal(meminfo string) uint64 {
	b, err := os.ReadFile(meminfo)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			f := strings.Fields(rest)
			if len(f) == 2 && f[1] == "kB" {
				n, _ := strconv.ParseUint(f[0], 10, 53) // 0 when it is no number
				return n << 10
			}
		}
	}
	return 0
}

// memoryLimit is how much memory the agent aims to stay below on a device with
// total bytes: on a router others need theirs.
func memoryLimit(total uint64) int64 {
	return int64(min(max(total/4, 24*mib), 256*mib))
}

// limitMemory makes the garbage collector work for little memory rather than
// for speed, as far as the environment does not say otherwise.
func limitMemory(total uint64, getenv func(string) string) {
	if getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	if getenv("GOMEMLIMIT") == "" && total > 0 {
		debug.SetMemoryLimit(memoryLimit(total))
	}
}

// maxStrangers is how many connections may be there on a device with total bytes
// that no session has come of: 16 with 64 MB, 64 with 256.
func maxStrangers(total uint64) int {
	if total == 0 {
		return 64
	}
	return int(min(max((total+16*mib)/(4*mib), 8), 64))
}

// maxFlows is how many flows a buyer may have on a device with total bytes.
// The kernel keeps some for itself: one of 128 MB counts from 100 MiB.
func maxFlows(total uint64) int {
	if total > 0 && total < 100*mib {
		return 256
	}
	return 512
}
