package tunnel

import (
	"context"
	"errors"
	"testing"
)

// A tally is a lane that remembers, and may refuse.
type tally struct {
	reserved, delivered int
	err                 error
}

func (l *tally) Reserve(_ context.Context, n int) error {
	if l.err == nil {
		l.reserved += n
	}
	return l.err
}

func (l *tally) Deliver(reserved, delivered int) {
	l.reserved -= reserved
	l.delivered += delivered
}

// TestLanesAnd: a flow's own lane counts beside the client's, holds both back, and
// leaves nothing reserved in either.
func TestLanesAnd(t *testing.T) {
	session, own := new(tally), new(tally)
	lanes := Lanes{session, session, session, session}.and(Lanes{DownTCP: own, UpUDP: own})
	if lanes.UpTCP != session || lanes.DownUDP != session {
		t.Error("a lane that is not there counts")
	}
	for _, l := range []Lane{lanes.DownTCP, lanes.UpUDP} {
		if err := l.Reserve(t.Context(), 100); err != nil || session.reserved != 100 || own.reserved != 100 {
			t.Errorf("%v, %+v %+v", err, session, own)
		}
		l.Deliver(100, 60)
	}
	if *session != (tally{delivered: 120}) || *own != (tally{delivered: 120}) {
		t.Errorf("%+v %+v", session, own)
	}
	no := errors.New("no")
	for _, refusing := range []*tally{session, own} {
		refusing.err = no
		if err := lanes.DownTCP.Reserve(t.Context(), 100); !errors.Is(err, no) || session.reserved != 0 || own.reserved != 0 {
			t.Errorf("%v, %+v %+v", err, session, own)
		}
		refusing.err = nil
	}
}
