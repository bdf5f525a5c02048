//go:build unix

package server

import "syscall"

// OpenFiles is how many files this process may open; 0: not known.
func OpenFiles() uint64 {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return uint64(l.Cur)
}
