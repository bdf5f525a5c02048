package seller

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/depinsim/x402/agent"
)

// linksFile of the line's folder lists the rotation links that are good.
const linksFile = "links.json"

const (
	maxLinks = 32
	// MaxLinkTime is how long a link may be good, MaxLinkUses how often.
	MaxLinkTime = 366 * 24 * time.Hour
	MaxLinkUses = 1_000_000
	// answerTime is how long a relay may take to be there again for the answer.
	answerTime = time.Minute
)

// A LinkStatus is a rotation link that is good. Times are in Unix seconds.
type LinkStatus struct {
	ID      string   `json:"id"`
	Made    int64    `json:"made"`
	Expires int64    `json:"expires"`
	Left    uint32   `json:"left"`           // uses
	Between uint32   `json:"between"`        // seconds between two
	Last    int64    `json:"last,omitempty"` // when it was used
	URLs    []string `json:"urls,omitempty"` // when it is made, one for each relay
}

// links are those that are good. What is used of them is on disk before the
// address is changed, so that none is used more often than it says, and one that
// is not in the file is good for nothing.
type links struct {
	path string

	mu  sync.Mutex
	all []LinkStatus
}

func openLinks(path string) (*links, error) {
	l := &links{path: path}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &l.all)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: remove it, and all rotation links with it", path, err)
	}
	return l, nil
}

// now is the time that links go by: no earlier than what the file knows of, for
// devices whose clock starts in the past.
func (l *links) now() int64 {
	now := time.Now().Unix()
	for _, x := range l.all {
		now = max(now, x.Made, x.Last)
	}
	return now
}

// store puts a list on disk and then in place of the one before.
func (l *links) store(next []LinkStatus) error {
	b, err := json.Marshal(next)
	if err == nil {
		err = agent.ReplaceFile(l.path, append(b, '\n'), 0o600)
	}
	if err == nil {
		l.all = next
	}
	return err
}

// good are the links that may be used again.
func (l *links) good() []LinkStatus {
	now := l.now()
	return slices.DeleteFunc(append([]LinkStatus{}, l.all...), func(x LinkStatus) bool { return x.Expires <= now || x.Left == 0 })
}

// add stores a link.
func (l *links) add(x agent.Link) (LinkStatus, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := l.good()
	if len(next) >= maxLinks {
		return LinkStatus{}, fmt.Errorf("there are %d rotation links: revoke one with x402-agent rotate --revoke ID", maxLinks)
	}
	st := LinkStatus{ID: hex.EncodeToString(x.ID[:]), Made: l.now(), Expires: x.Expires, Left: x.Uses, Between: x.Between}
	return st, l.store(append(next, st))
}

// revoke forgets a link, or all.
func (l *links) revoke(id string) ([]LinkStatus, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := slices.DeleteFunc(l.good(), func(x LinkStatus) bool { return id == "all" || x.ID == id })
	if len(next) == len(l.good()) && id != "all" {
		return nil, fmt.Errorf("no rotation link %.20q: x402-agent rotate --links shows them", id)
	}
	return next, l.store(next)
}

// use counts a use of a link, if claim lets it.
func (l *links) use(x agent.Link, claim func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	next, now := slices.Clone(l.all), l.now()
	i := slices.IndexFunc(next, func(st LinkStatus) bool { return st.ID == hex.EncodeToString(x.ID[:]) })
	switch {
	case i < 0:
		return errors.New("the link was revoked, or is used up")
	case x.Expires <= now:
		return errors.New("the link has expired")
	case next[i].Left == 0:
		return errors.New("the link is used up")
	}
	if wait := next[i].Last + int64(x.Between) - now; next[i].Last > 0 && wait > 0 {
		return fmt.Errorf("the link was used a moment ago: again in %d s", wait)
	}
	if err := claim(); err != nil {
		return err
	}
	next[i].Left--
	next[i].Last = now
	return l.store(next)
}

// makeLink makes a rotation link, for so many seconds and uses.
func (s *Seller) makeLink(args map[string]string) (st LinkStatus, err error) {
	seconds, err := strconv.ParseUint(args["expires"], 10, 32)
	if err != nil || seconds == 0 || time.Duration(seconds)*time.Second > MaxLinkTime {
		return st, fmt.Errorf("expires: %.20q seconds, want at most a year", args["expires"])
	}
	uses, err := strconv.ParseUint(args["uses"], 10, 32)
	if err != nil || uses == 0 || uses > MaxLinkUses {
		return st, fmt.Errorf("uses: %.20q, want 1 to %d", args["uses"], MaxLinkUses)
	}
	if len(s.cfg.Relays) == 0 || s.cfg.Modem == nil {
		return st, errors.New("a rotation link goes by a relay and changes a modem's address: set relays and [modem] in the config file")
	}
	s.links.mu.Lock()
	expires := s.links.now() + int64(seconds)
	s.links.mu.Unlock()
	x := agent.Link{Expires: expires, Uses: uint32(uses), Between: uint32(s.rotateBetween() / time.Second)}
	if _, err := rand.Read(x.ID[:]); err != nil {
		return st, err
	}
	if st, err = s.links.add(x); err != nil {
		return st, err
	}
	text := agent.SignLink(s.key, x)
	for _, r := range s.cfg.Relays {
		st.URLs = append(st.URLs, "https://"+r.Address()+agent.LinkPath+text)
	}
	s.log.Info("the owner has made a rotation link", "link", st.ID, "expires", st.Expires, "uses", st.Left)
	return st, nil
}

// rotateByLink has the address changed for who has a link.
func (s *Seller) rotateByLink(ctx context.Context, text string) Rotation {
	x, by, err := agent.ParseLink(text)
	if err == nil && by != s.key.Address() {
		err = errors.New("the link is another agent's")
	}
	if err == nil && s.flight.on() {
		err = errors.New("the radio is off")
	}
	if err == nil {
		_, err = s.modemNow()
	}
	if err == nil {
		err = s.links.use(x, func() error { return s.claimRotation(time.Now()) })
	}
	if err != nil {
		return Rotation{Error: err.Error()}
	}
	return s.rotateNow(ctx, 0, "link")
}

// rotate has the address changed for who has a link, and answers by the relay
// when that is there again. It does not block. A relay passes links on one after
// the other; one that does not is not heard.
func (l *relayLink) rotate(ctx context.Context, id sessionID, text string) {
	if !l.rotating.CompareAndSwap(false, true) {
		return
	}
	l.r.sessions.Go(func() error {
		a := linkAnswer{id, l.useLink(ctx, text)}
		l.rotating.Store(false)
		if err := l.answer(ctx, a); err != nil && ctx.Err() == nil {
			l.r.s.log.Info("a rotation by link was not answered", "relay", l.name.Address(), "err", err)
		}
		return nil
	})
}

// linkPause bounds how often a relay has signatures checked.
const linkPause = time.Second

// useLink uses a link, and no more than one in a while.
func (l *relayLink) useLink(ctx context.Context, text string) Rotation {
	l.mu.Lock()
	wait := time.Until(l.linked.Add(linkPause))
	l.linked = time.Now().Add(max(wait, 0))
	l.mu.Unlock()
	if !sleep(ctx, wait) {
		return Rotation{Error: errStops.Error()}
	}
	return l.r.s.rotateByLink(ctx, text)
}

// A linkAnswer is what came of a relay's request.
type linkAnswer struct {
	id sessionID
	Rotation
}

// answer says what came of it, by a connection that is newer than the rotation.
func (l *relayLink) answer(ctx context.Context, a linkAnswer) error {
	b, err := json.Marshal(agent.Rotated{Changed: a.Changed, Old: a.Old, New: a.New, Error: a.Error})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	tick := time.NewTicker(seenTick)
	defer tick.Stop()
	for {
		l.mu.Lock()
		to, since := l.agent, l.since
		l.mu.Unlock()
		if to != nil && since.After(a.back) {
			return to.Rotated(ctx, a.id, b)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
