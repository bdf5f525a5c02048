package buyer

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestYield has TLS wait at a relay until QUIC has had its head start there, but
// not for a relay that does not answer UDP.
func TestYield(t *testing.T) {
	for name, c := range map[string]struct {
		after time.Duration // until UDP has a port, or has failed to get one; 0: for ever
		err   error
		want  time.Duration
	}{
		"answered":   {after: 300 * time.Millisecond, want: 300*time.Millisecond + headStart},
		"late":       {after: boundTime - 1, want: boundTime - 1 + headStart},
		"refused":    {after: 300 * time.Millisecond, err: errors.New("no"), want: 300 * time.Millisecond},
		"unanswered": {want: boundTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				bound := make(chan error, 1)
				if c.after > 0 {
					time.AfterFunc(c.after, func() { bound <- c.err })
				}
				yield(t.Context(), bound)
				if took := time.Since(began); took != c.want {
					t.Errorf("waited %v, want %v", took, c.want)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		began := time.Now()
		yield(ctx, make(chan error))
		if took := time.Since(began); took != time.Millisecond {
			t.Errorf("waited %v after the end", took)
		}
	})
}
