package main

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/channel"
)

// hint says what to do about an error, "" if we do not know.
func hint(err error) string {
	if _, ok := errors.AsType[usageError](err); ok {
		return "`x402-agent help` lists the commands, `x402-agent help COMMAND` their flags"
	}
	if _, ok := errors.AsType[configError](err); ok {
		return configHint(err)
	}
	if _, ok := errors.AsType[*seller.UnclaimedError](err); ok {
		return "start the agent and claim it with `x402-agent settle`; --lose-unclaimed gives it up"
	}
	switch {
	case errors.Is(err, errChecks):
		return "" // each check says what to do
	case errors.Is(err, errNotSettled):
		return "nothing is lost: the agent tries again by itself; `x402-agent check` looks at the facilitator"
	case errors.Is(err, errNotRotated):
		return "try a longer --hold; some carriers keep the address for hours, or for good"
	case errors.Is(err, errNotTried):
		return "it takes a modem, and somebody who sees the address: [modem], and relays or rotate.echo in the config file; `x402-agent status` shows what is wrong with them"
	case errors.Is(err, seller.ErrNotRunning):
		return "is the agent running? Start it with `x402-agent run`, or name its socket with --control"
	case errors.Is(err, channel.ErrInUse):
		return "another agent is running with this state_dir; `x402-agent status` shows it"
	case errors.Is(err, channel.ErrCorrupt):
		return "the flash may be failing: copy state_dir before anything else; vouchers in it are money"
	case errors.Is(err, syscall.EADDRINUSE):
		return "another program uses the port; stop it, or set listen in the config file"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "this device has no such address; set listen in the config file"
	case errors.Is(err, syscall.EROFS):
		return "the file system is read-only; set state_dir to a directory that can be written"
	case errors.Is(err, syscall.ENOSPC):
		return "the disk is full; nothing was lost, start again once there is room"
	case errors.Is(err, fs.ErrPermission):
		return "run this as the agent's user, who must be able to use state_dir and what is in it"
	}
	return ""
}

func configHint(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "name the file with --config; the agent.toml that came with the program explains every key"
	case errors.Is(err, fs.ErrPermission):
		return "run this as the agent's user, who must be able to read the file"
	}
	return "the agent.toml that came with the program explains every key; `x402-agent check` checks yours"
}
