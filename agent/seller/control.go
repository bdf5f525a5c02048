package seller

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/depinsim/x402/channel"
)

// ErrNotRunning is returned when no agent answers on a control socket.
var ErrNotRunning = errors.New("no agent answers")

// OfferPath returns the path of the file that holds the agent's signed offer.
func (c Config) OfferPath() string { return filepath.Join(c.StateDir, offerFile) }

// controlFile is the control socket in the state directory.
const controlFile = "control.sock"

// ControlPath returns the path of the agent's control socket.
func (c Config) ControlPath() string {
	if c.Control != "" {
		return c.Control
	}
	return filepath.Join(c.StateDir, controlFile)
}

// On the control socket a client sends one line: a command (see obey), then
// perhaps key=value, where the value is as in a URL's query, and the name of one
// SIM, between spaces. The agent answers with one JSON object, an answer, and
// closes the connection. net/http would be 0.15 MB on the router.

// An answer is what a command came to: a result, or why there is none.
type answer struct {
	Result any    `json:"result,omitempty"`
	Error  string `json:"error,omitempty"`
}

const (
	controlConns = 16              // at once; more wait
	controlTime  = 5 * time.Second // to send a command, and to take its answer
	controlPause = 100 * time.Millisecond
	maxCommand   = 8 << 10 // eight short messages fit
	maxAnswer    = 4 << 20 // a thousand channels' numbers fit
)

// serveControl answers the owner's commands until ctx ends. The socket's mode
// is 0600: who may open it may do everything.
func (h *hub) serveControl(ctx context.Context, ln net.Listener) (err error) {
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() }) // ends Accept below
	defer stop()
	var conns errgroup.Group
	conns.SetLimit(controlConns)
	for err == nil {
		var conn net.Conn
		conn, err = ln.Accept()
		switch {
		case err == nil:
			conns.Go(func() error {
				h.command(ctx, conn)
				return nil
			})
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE): // flows have them; they end
			select {
			case <-ctx.Done():
			case <-time.After(controlPause):
				err = nil
			}
		}
	}
	_ = conns.Wait() // commands return nil
	// A journal's lock is still held: no other agent has the path.
	if rerr := os.Remove(h.cfg.ControlPath()); rerr != nil {
		h.log.Debug("control socket", "err", rerr)
	}
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(fmt.Errorf("control socket: %w", err), ln.Close())
}

// command takes one command from conn and answers it. It owns conn.
func (h *hub) command(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(controlTime)) // of a closed one: the read fails
	line, err := bufio.NewReaderSize(conn, maxCommand).ReadSlice('\n')
	if err != nil {
		h.log.Debug("control socket", "err", err)
		return
	}
	var a answer
	a.Result, err = h.obey(ctx, strings.TrimSuffix(string(line), "\n"))
	if err != nil {
		a.Error = err.Error()
	}
	_ = conn.SetDeadline(time.Now().Add(controlTime))
	if err := json.NewEncoder(conn).Encode(a); err != nil {
		h.log.Debug("control socket", "err", err)
	}
}

// obey carries a command out.
func (h *hub) obey(ctx context.Context, command string) (any, error) {
	name, sim, args := parseCommand(command)
	lines, err := h.named(sim)
	if err != nil {
		return nil, err
	}
	switch name {
	case "status":
		return h.status(sim)
	case "sessions":
		return sessionsOf(lines), nil
	case "earnings":
		return earningsOf(lines), nil
	case "settle":
		return settleLines(ctx, lines)
	case "sim", "sim-accept", "set-used", "rotate", "link-make", "links", "link-revoke", "signal", "airplane", "mode", "bands", "reset",
		"sms-list", "sms-send", "sms-delete", "ussd", "ussd-cancel":
	default:
		return nil, fmt.Errorf("no command %.40q: this agent is of another version", name)
	}
	if sim == "" {
		lines = unretired(lines)
	}
	if len(lines) != 1 {
		return nil, errWhichSIM
	}
	return lines[0].obey(ctx, name, args)
}

// obey carries out a command to one SIM.
func (l *line) obey(ctx context.Context, name string, args map[string]string) (any, error) {
	switch name {
	case "sim":
		return l.cards.known(), nil
	case "sim-accept":
		return l.acceptSIM(ctx, args["used"])
	case "set-used":
		return l.setUsed(args["bytes"])
	case "rotate":
		return l.rotateOnce(ctx, args["hold"])
	case "link-make":
		return l.makeLink(args)
	case "links":
		l.links.mu.Lock()
		defer l.links.mu.Unlock()
		return l.links.good(), nil
	case "link-revoke":
		return l.links.revoke(args["id"])
	}
	return l.tellModem(ctx, name, args)
}

// unretired leaves out the lines that only claim what they are owed: nobody who
// names no SIM means them.
func unretired(lines []*line) []*line {
	return slices.DeleteFunc(slices.Clone(lines), func(l *line) bool { return l.cfg.Retired })
}

var errWhichSIM = errors.New("which SIM? There are several: name one with --sim")

// parseCommand takes a command apart.
func parseCommand(text string) (name, sim string, args map[string]string) {
	name, rest, _ := strings.Cut(text, " ")
	args = map[string]string{}
	for word := range strings.FieldsSeq(rest) {
		if key, value, is := strings.Cut(word, "="); is {
			if plain, err := url.QueryUnescape(value); err == nil {
				value = plain
			}
			args[key] = value
		} else {
			sim = word
		}
	}
	return name, sim, args
}

// maxHold is how long a modem may be kept off the network.
const maxHold = 10 * time.Minute

func (s *Seller) rotateOnce(ctx context.Context, text string) (r Rotation, err error) {
	var hold time.Duration
	if text != "" {
		if hold, err = time.ParseDuration(text); err != nil || hold <= 0 || hold > maxHold {
			return r, fmt.Errorf("hold %.20q: want a time up to %v, such as 4s", text, maxHold)
		}
	}
	return s.rotateNow(ctx, hold, "command"), nil
}

// settleLines settles all at once.
func settleLines(ctx context.Context, lines []*line) (Settlement, error) {
	results := make([]settleResult, len(lines))
	var all sync.WaitGroup
	for i, l := range lines {
		all.Go(func() { results[i] = l.settleNow(ctx) })
	}
	all.Wait()
	var sum Settlement
	var errs []error
	for i, r := range results {
		sum.Claimed += r.Claimed
		sum.Channels += r.Rows
		if r.err != nil && len(lines) > 1 {
			r.err = fmt.Errorf("%s: %w", lines[i].cfg.Name, r.err)
		}
		errs = append(errs, r.err)
	}
	return sum, errors.Join(errs...)
}

// settleNow has the settle loop settle.
func (s *Seller) settleNow(ctx context.Context) settleResult {
	done := make(chan settleResult, 1)
	select {
	case s.settle <- settleRequest{done}:
		return <-done
	case <-ctx.Done():
		return settleResult{err: errStops}
	}
}

// setUsed takes over what the owner says is used of the plan, in bytes.
func (s *Seller) setUsed(text string) (*PlanStatus, error) {
	if s.ration == nil {
		return nil, errors.New("there is no plan: the config file has no section [plan]")
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("plan set-used: %w", err)
	}
	if err := s.ration.book.Enter(n); err != nil {
		return nil, err
	}
	s.log.Info("the owner says what is used of the plan", "bytes", n)
	return s.planStatus(), nil
}

var errStops = errors.New("the agent stops")

// A Settlement is what settling on request came to.
type Settlement struct {
	Claimed  channel.Amount `json:"claimed"`  // over all channels
	Channels int            `json:"channels"` // with something to claim
}

// A Control talks to a running agent over its control socket.
type Control struct{ path, sim string }

// DialControl returns the control of the agent with socket path. It connects
// with each call.
func DialControl(path string) *Control { return &Control{path: path} }

// Of returns the control of one SIM of the agent, by its name; "" is all.
func (c *Control) Of(sim string) *Control { return &Control{c.path, sim} }

// Get gives a command and decodes the answer into v: a *Status for status, a
// *[]SessionStatus for sessions, an *Earnings, *Cards, or what the command's
// function here returns. args are keys and values in turn. It is ErrNotRunning
// when there is nobody to ask.
func (c *Control) Get(ctx context.Context, name string, v any, args ...string) error {
	for i := 1; i < len(args); i += 2 {
		name += " " + args[i-1] + "=" + url.QueryEscape(args[i])
	}
	return c.call(ctx, name, v)
}

// Settle claims and settles now.
func (c *Control) Settle(ctx context.Context) (s Settlement, err error) {
	err = c.call(ctx, "settle", &s)
	return s, err
}

// SetUsed says how many bytes of the plan are used now.
func (c *Control) SetUsed(ctx context.Context, bytes uint64) (p PlanStatus, err error) {
	err = c.Get(ctx, "set-used", &p, "bytes", strconv.FormatUint(bytes, 10))
	return p, err
}

// AcceptSIM has the SIM sold that is in the modem now. used, if it is not "", is
// how many bytes of its plan are used.
func (c *Control) AcceptSIM(ctx context.Context, used string) (a Acceptance, err error) {
	err = c.Get(ctx, "sim-accept", &a, "used", used)
	return a, err
}

// Rotate has the address changed and says what came of it. It takes as long as
// that takes; hold is how long to be off the network, 0 as the config says.
func (c *Control) Rotate(ctx context.Context, hold time.Duration) (r Rotation, err error) {
	text := ""
	if hold > 0 {
		text = hold.String()
	}
	err = c.Get(ctx, "rotate", &r, "hold", text)
	return r, err
}

// call sends a command and decodes its result into v.
func (c *Control) call(ctx context.Context, name string, v any) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: %w", c.path, ErrNotRunning)
	case err != nil:
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	b, err := exchange(conn, strings.TrimSpace(name+" "+c.sim))
	name, _, _ = strings.Cut(name, " ") // the rest may be private
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: given up: %w", name, context.Cause(ctx))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%s: the agent has not answered for %v", name, patienceFor(name))
	case err != nil || len(b) == 0:
		// However a stream breaks off.
		return fmt.Errorf("%s: the agent ended before it answered: %w", name, io.ErrUnexpectedEOF)
	}
	a := answer{Result: v}
	if err := json.Unmarshal(b, &a); err != nil {
		return fmt.Errorf("%s: the agent's answer: %w", name, err)
	}
	if a.Error != "" {
		return errors.New(a.Error) // says itself what failed
	}
	return nil
}

// patienceFor is how long an answer may take.
func patienceFor(command string) time.Duration {
	switch name, _, _ := strings.Cut(command, " "); name {
	case "status", "sessions", "earnings", "settle", "sim", "sim-accept", "set-used":
		return 2 * settleTimeout
	}
	return time.Hour // of which most is never used: the agent has its own bounds
}

// exchange sends one line and reads all that comes.
func exchange(conn net.Conn, line string) ([]byte, error) {
	if err := conn.SetDeadline(time.Now().Add(patienceFor(line))); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(conn, maxAnswer))
}
