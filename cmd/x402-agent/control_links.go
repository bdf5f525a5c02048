package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/depinsim/x402/agent/seller"
)

// linkFlags are those of rotate that are about links.
type linkFlags struct {
	link, links     bool
	expires, revoke string
	uses            uint64
}

func (l *linkFlags) add(f *flags) {
	f.BoolVar(&l.link, "link", false, "")
	f.BoolVar(&l.links, "links", false, "")
	f.StringVar(&l.expires, "expires", "30d", "")
	f.StringVar(&l.revoke, "revoke", "", "")
	f.Uint64Var(&l.uses, "uses", 100, "")
}

// order is what they ask for, if anything.
func (l *linkFlags) order() (o order, is bool, err error) {
	var made seller.LinkStatus
	all := []seller.LinkStatus{}
	listed := view{&all, func() string { return renderLinks(all) }}
	switch {
	case l.revoke != "":
		return order{"link-revoke", []string{"id", l.revoke}, listed}, true, nil
	case l.links:
		return order{"links", nil, listed}, true, nil
	case !l.link:
		return o, false, nil
	}
	span, err := days(l.expires)
	if err != nil || span < time.Second || span > seller.MaxLinkTime {
		return o, false, usage("--expires: %.20q is no time such as 30d or 12h, up to a year", l.expires)
	}
	if l.uses == 0 || l.uses > seller.MaxLinkUses {
		return o, false, usage("--uses: %d, want 1 to %d", l.uses, seller.MaxLinkUses)
	}
	args := []string{"expires", strconv.FormatInt(int64(span/time.Second), 10), "uses", strconv.FormatUint(l.uses, 10)}
	return order{"link-make", args, view{&made, func() string { return strings.Join(made.URLs, "\n") + "\n" }}}, true, nil
}

// days reads a time, which may be in days.
func days(s string) (time.Duration, error) {
	if n, is := strings.CutSuffix(s, "d"); is {
		count, err := strconv.ParseUint(n, 10, 16)
		return time.Duration(count) * 24 * time.Hour, err
	}
	return time.ParseDuration(s)
}

// renderLinks is one row a link.
func renderLinks(all []seller.LinkStatus) string {
	if len(all) == 0 {
		return "no rotation links\n"
	}
	rows := [][]string{{"LINK", "EXPIRES", "USES LEFT", "LAST USED"}}
	for _, x := range all {
		last := "-"
		if x.Last > 0 {
			last = when(x.Last, "")
		}
		rows = append(rows, []string{printable(x.ID), when(x.Expires, ""), fmt.Sprint(x.Left), last})
	}
	return table(rows)
}
