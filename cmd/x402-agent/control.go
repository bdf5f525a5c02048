package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"strconv"
	"strings"

	"github.com/depinsim/x402/agent/seller"
	"github.com/depinsim/x402/meter/plan"
)

// talk reads the flags of a command that talks to a running agent.
func talk(f *flags, args []string) (c *seller.Control, asJSON bool, err error) {
	config := f.String("config", defaultConfig, "")
	path := f.String("control", "", "")
	sim := f.String("sim", "", "")
	f.BoolVar(&asJSON, "json", false, "")
	if err := f.parse(args); err != nil {
		return nil, false, err
	}
	if *path == "" {
		if *path, err = seller.ControlPathOf(*config); err != nil {
			return nil, false, configError{err}
		}
	}
	if *sim != "" && seller.CheckName(*sim) != nil {
		return nil, false, usage("--sim: %.40q names no SIM", *sim)
	}
	return seller.DialControl(*path).Of(*sim), asJSON, nil
}

func (p program) status(ctx context.Context, f *flags, args []string) error {
	var st seller.Status
	return p.show(ctx, f, args, view{&st, func() string { return renderStatus(st) }})
}

func (p program) sessions(ctx context.Context, f *flags, args []string) error {
	var all []seller.SessionStatus
	return p.show(ctx, f, args, view{&all, func() string { return renderSessions(all) }})
}

func (p program) earnings(ctx context.Context, f *flags, args []string) error {
	var e seller.Earnings
	return p.show(ctx, f, args, view{&e, func() string { return renderEarnings(e) }})
}

// A view is where an answer goes, and what is made of it for people.
type view struct {
	v      any
	render func() string
}

// show asks for what the command's name says and prints the answer.
func (p program) show(ctx context.Context, f *flags, args []string, v view) error {
	c, asJSON, err := talk(f, args)
	if err != nil {
		return err
	}
	var raw json.RawMessage
	if err := c.Get(ctx, f.Name(), &raw); err != nil {
		return err
	}
	return p.print(raw, asJSON, v)
}

// print prints an answer: as it came for --json, else what v makes of it.
func (p program) print(raw json.RawMessage, asJSON bool, v view) error {
	if asJSON {
		var b bytes.Buffer
		if err := json.Indent(&b, raw, "", "  "); err != nil {
			return err
		}
		_, err := fmt.Fprintln(p.out, b.String())
		return err
	}
	if err := json.Unmarshal(raw, v.v); err != nil {
		return fmt.Errorf("the agent's answer: %w", err)
	}
	_, err := io.WriteString(p.out, v.render())
	return err
}

func (p program) plan(ctx context.Context, f *flags, args []string) error {
	f.most = 2
	c, asJSON, err := talk(f, args)
	switch {
	case err != nil:
		return err
	case f.word(0) == "set-used":
		return p.setUsed(ctx, f, c, asJSON)
	case f.word(0) != "":
		return usage("plan: unexpected argument %q", f.words[0])
	}
	var st seller.Status
	if err := c.Get(ctx, "status", &st); err != nil {
		return err
	}
	if len(st.SIMs) > 0 {
		return errors.New("there are several SIMs, each with a plan of its own: name one with --sim")
	}
	if st.Plan == nil {
		return errNoPlan
	}
	return p.showPlan(*st.Plan, asJSON)
}

// errNoPlan says that the agent keeps no plan.
var errNoPlan = errors.New("the agent keeps no plan: the config file has no section [plan]")

func (p program) setUsed(ctx context.Context, f *flags, c *seller.Control, asJSON bool) error {
	size := f.word(1)
	if size == "" {
		return usage("plan set-used: how much? Say what the carrier shows as used, such as '12.3 GB'")
	}
	bytes, err := seller.ParseSize(size)
	if err != nil {
		return usage("plan set-used: %.40q: %s", size, err)
	}
	st, err := c.SetUsed(ctx, bytes)
	if err != nil {
		return err
	}
	return p.showPlan(st, asJSON)
}

func (p program) showPlan(st seller.PlanStatus, asJSON bool) error {
	if asJSON {
		return p.printJSON(st)
	}
	var b strings.Builder
	renderPlan(lines(&b), &st)
	_, err := io.WriteString(p.out, b.String())
	return err
}

// errNotSettled says that the agent was reached and could not settle.
var errNotSettled = errors.New("not settled")

func (p program) settle(ctx context.Context, f *flags, args []string) error {
	c, asJSON, err := talk(f, args)
	if err != nil {
		return err
	}
	s, err := c.Settle(ctx)
	switch {
	case errors.Is(err, seller.ErrNotRunning), errors.Is(err, fs.ErrPermission):
		return err
	case err != nil:
		return fmt.Errorf("%w: %w", errNotSettled, err)
	}
	if asJSON {
		return p.printJSON(s)
	}
	if s.Channels == 0 {
		_, err = fmt.Fprintln(p.out, "nothing to claim")
	} else {
		_, err = fmt.Fprintf(p.out, "claimed %s USD of %s\n", s.Claimed.USD(), count(s.Channels, "channel"))
	}
	return err
}

// sim shows the SIMs, or has the present one sold.
func (p program) sim(ctx context.Context, f *flags, args []string) error {
	used := f.String("used", "", "")
	f.most = 1
	c, asJSON, err := talk(f, args)
	switch {
	case err != nil:
		return err
	case f.word(0) == "accept":
		return p.acceptSIM(ctx, c, *used, asJSON)
	case f.word(0) != "":
		return usage("sim: unexpected argument %q", f.words[0])
	case *used != "":
		return usage("--used: what is used is said with sim accept, or with plan set-used")
	}
	var raw json.RawMessage
	if err := c.Get(ctx, "sim", &raw); err != nil {
		return err
	}
	var all seller.Cards
	return p.print(raw, asJSON, view{&all, func() string { return renderCards(all) }})
}

func (p program) acceptSIM(ctx context.Context, c *seller.Control, used string, asJSON bool) error {
	if used != "" {
		bytes, err := seller.ParseSize(used)
		if err != nil {
			return usage("--used: %.40q: %s", used, err)
		}
		used = strconv.FormatUint(bytes, 10)
	}
	a, err := c.AcceptSIM(ctx, used)
	if err != nil {
		return err
	}
	if asJSON {
		return p.printJSON(a)
	}
	text := fmt.Sprintf("the SIM of %s-%s is sold\n", a.MCC, a.MNC)
	if a.Plan != nil && plan.Reason(a.Plan.Why) == plan.ReasonSIM {
		text = fmt.Sprintf("the SIM of %s-%s may be sold, and is when it is known what is used of its plan:\nx402-agent plan set-used '12.3 GB'\n", a.MCC, a.MNC)
	} else if a.Plan != nil {
		var b strings.Builder
		renderPlan(lines(&b), a.Plan)
		text += b.String()
	}
	_, err = io.WriteString(p.out, text)
	return err
}

// errNotRotated says that the agent was reached and the address is as before.
var errNotRotated = errors.New("the address was not changed")

// errNotTried says that the modem was left alone.
var errNotTried = errors.New("nothing was done about the address")

func (p program) rotate(ctx context.Context, f *flags, args []string) error {
	hold := f.Duration("hold", 0, "")
	var l linkFlags
	l.add(f)
	c, asJSON, err := talk(f, args)
	if err != nil {
		return err
	}
	if *hold < 0 {
		return usage("--hold: %v is negative", *hold)
	}
	if o, is, err := l.order(); err != nil {
		return err
	} else if is {
		return p.give(ctx, c, asJSON, o)
	}
	r, err := c.Rotate(ctx, *hold)
	if err != nil {
		return err
	}
	if asJSON {
		err = p.printJSON(r)
	} else if r.Changed {
		_, err = fmt.Fprintf(p.out, "%s is %s now; %s, %d ms\n", r.Old, r.New, count(r.Tries, "attempt"), r.Took)
	}
	if err == nil && !r.Changed && r.Tries == 0 {
		return fmt.Errorf("%w: %s", errNotTried, r.Error)
	}
	if err == nil && !r.Changed {
		err = fmt.Errorf("%w: %s", errNotRotated, r.Error)
	}
	return err
}

// purge removes what the agent has stored.
func (p program) purge(_ context.Context, f *flags, args []string) error {
	config := f.String("config", defaultConfig, "")
	lose := f.Bool("lose-unclaimed", false, "")
	if err := f.parse(args); err != nil {
		return err
	}
	dir, err := seller.StateDirOf(*config)
	if err != nil {
		return configError{err}
	}
	if err := seller.Purge(dir, *lose); err != nil {
		return fmt.Errorf("purge: %w", err)
	}
	_, err = fmt.Fprintln(p.out, "keys and vouchers are removed from", dir)
	return err
}

func (p program) version(_ context.Context, f *flags, args []string) error {
	asJSON := f.Bool("json", false, "")
	if err := f.parse(args); err != nil {
		return err
	}
	if *asJSON {
		return p.printJSON(map[string]string{"version": version, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH})
	}
	_, err := fmt.Fprintf(p.out, "x402-agent %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

func (p program) printJSON(v any) error {
	e := json.NewEncoder(p.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
