//go:build unix

package demo

import (
	"os/exec"
	"syscall"
)

// ownGroup keeps the terminal's Ctrl-C from the process: the demo hears it and
// ends all of them.
func ownGroup(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
