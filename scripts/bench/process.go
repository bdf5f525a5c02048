package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A process is a role of this program, or a command, on one side of the lab.
//
// A role reads its settings as the first line of its standard input and
// answers in JSON on its standard output; it ends when the input does, so that
// none outlives this program. A command ends on SIGTERM.
type process struct {
	name string
	role bool
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *os.File
	dec  *json.Decoder // of out
	log  *os.File
	wg   sync.WaitGroup
	done chan struct{} // closed when it has ended; err is set before
	err  error
}

const (
	answerTime = 3 * time.Minute // for an answer beyond what was asked to last
	stopTime   = 30 * time.Second
)

// startRole starts a role of this program with its settings.
func (b *bench) startRole(ctx context.Context, side side, name string, settings any) (*process, error) {
	p, err := b.start(ctx, side, name, b.self, roleArg, name)
	if err != nil {
		return nil, err
	}
	p.role = true
	return p, p.tell(settings)
}

// start starts argv. It ends at the latest with the group that began it.
func (b *bench) start(ctx context.Context, side side, name string, argv ...string) (*process, error) {
	p := &process{name: name, cmd: b.lab.command(ctx, side, argv...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), roleEnv+"=1")
	var err error
	if p.log, err = os.OpenFile(filepath.Join(b.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return nil, err
	}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, errors.Join(err, p.log.Close())
	}
	out, write, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, p.log.Close())
	}
	p.out, p.dec = out, json.NewDecoder(out)
	p.cmd.Stdout, p.cmd.Stderr = write, p.log
	err = errors.Join(p.cmd.Start(), write.Close())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), p.out.Close(), p.log.Close())
	}
	b.procs = append(b.procs, p)
	p.wg.Go(func() {
		p.err = p.cmd.Wait()
		close(p.done)
	})
	return p, nil
}

// tell sends a line of JSON.
func (p *process) tell(v any) error {
	if err := json.NewEncoder(p.in).Encode(v); err != nil {
		return fmt.Errorf("%s: %w: %s", p.name, err, p.lastWords())
	}
	return nil
}

// answer reads the next answer into v.
func (p *process) answer(ctx context.Context, v any, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()
	if err := p.dec.Decode(v); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer in %v", within)
		}
		return fmt.Errorf("%s: %w: %s", p.name, err, p.lastWords())
	}
	return nil
}

// ask tells and reads the answer.
func (p *process) ask(ctx context.Context, question, answer any, lasts time.Duration) error {
	if err := p.tell(question); err != nil {
		return err
	}
	return p.answer(ctx, answer, lasts+answerTime)
}

// lastWords is the last line that the process wrote for people.
func (p *process) lastWords() string {
	text, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(lines[len(lines)-1])
}

func (p *process) kill() { _ = p.cmd.Process.Kill() } // it may have ended already

// stop ends the process in order. What a role says last is left in last, if
// that is not nil.
func (p *process) stop(last any) error {
	_ = p.in.Close() // it may have ended already
	if !p.role {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	}
	timer := time.AfterFunc(stopTime, p.kill)
	defer timer.Stop()
	var err error
	if last != nil {
		err = p.dec.Decode(last)
	}
	<-p.done
	if e := errors.Join(err, p.err); e != nil {
		return fmt.Errorf("%s: %w: %s", p.name, e, p.lastWords())
	}
	return nil
}

// endAll kills what is left of a group and forgets it.
func (b *bench) endAll() {
	for _, p := range b.procs {
		p.kill()
		_ = p.in.Close()
		p.wg.Wait()
		_ = errors.Join(p.out.Close(), p.log.Close())
	}
	b.procs = nil
}

// ticksPerSecond is USER_HZ, which is 100 on every architecture of Linux that
// Go supports (proc_pid_stat(5) counts in it).
const ticksPerSecond = 100

// cpu is the processor time that the process has used, with the kernel's on
// its behalf.
func (p *process) cpu() (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "stat"))
	if err != nil {
		return 0, err
	}
	return parseStat(string(text))
}

// parseStat returns utime + stime, the fields 14 and 15 of proc_pid_stat(5).
func parseStat(text string) (time.Duration, error) {
	_, rest, ok := strings.Cut(text[strings.LastIndexByte(text, ')')+1:], " ")
	fields := strings.Fields(rest) // from 3
	if !ok || len(fields) < 13 {
		return 0, fmt.Errorf("/proc/PID/stat: %q", text)
	}
	var sum int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/PID/stat: %w", err)
		}
		sum += n
	}
	return time.Duration(sum) * time.Second / ticksPerSecond, nil
}

// rss is the memory of the process that is in RAM, in bytes.
func (p *process) rss() (int64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "status"))
	if err != nil {
		return 0, err
	}
	return parseStatus(string(text))
}

// parseStatus returns VmRSS of proc_pid_status(5).
func parseStatus(text string) (int64, error) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10, err
		}
	}
	return 0, errors.New("/proc/PID/status: no VmRSS")
}
