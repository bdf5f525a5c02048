package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// shutdownTime is how long requests in work may take after the end was asked for.
const shutdownTime = 10 * time.Second

// Run serves the facilitator on public, and the operator's calls on admin if it
// is not nil, until ctx is cancelled; then it finishes the requests in work and
// returns nil. It owns both listeners.
func (s *Server) Run(ctx context.Context, public, admin net.Listener) error {
	g, gctx := errgroup.WithContext(ctx)
	serve := func(l net.Listener, srv *http.Server) {
		srv.ErrorLog = slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)
		g.Go(func() error {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		g.Go(func() error {
			<-gctx.Done()
			return stop(ctx, srv)
		})
	}
	serve(public, &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	})
	if admin != nil {
		// An audit takes as long as the journal is.
		serve(admin, &http.Server{Handler: s.admin(), ReadTimeout: 15 * time.Second, MaxHeaderBytes: 16 << 10})
	}
	return g.Wait()
}

func stop(ctx context.Context, srv *http.Server) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		return srv.Close() // whoever is still there has had his time
	}
	return nil
}
