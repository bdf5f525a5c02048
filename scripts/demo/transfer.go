package demo

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// transfer fetches the file, one half through each proxy, and kills the agent
// in the middle.
func (d *demo) transfer(ctx context.Context) error {
	var have atomic.Int64
	done := make(chan struct{})
	var drawing sync.WaitGroup
	drawing.Go(func() { d.say.follow(done, &have, d.cfg.Bytes) })
	began := time.Now()
	var err error
	if d.cfg.Bytes >= gateFrom {
		err = d.fetchAcross(ctx, &have)
	} else {
		err = d.fetchAround(ctx, &have)
	}
	passed := time.Since(began)
	close(done)
	drawing.Wait()
	if err != nil {
		return err
	}
	t := &d.report.Transfer
	t.Bytes, t.Seconds = have.Load(), seconds(passed)
	t.Mbps = round(float64(t.Bytes) * 8 / 1e6 / passed.Seconds())
	d.say.step("file", "%s arrived in %.1f s, and is the same as the original (SHA-256)", size(t.Bytes), t.Seconds)
	return nil
}

// fetchAcross fetches both halves at once. When a quarter of the file is there
// the agent is killed; the web server holds half of it back until then.
func (d *demo) fetchAcross(ctx context.Context, have *atomic.Int64) error {
	quarter := make(chan struct{}) // closed when it is there
	var once sync.Once
	count := func(n int) {
		if have.Add(int64(n)) >= d.cfg.Bytes/4 {
			once.Do(func() { close(quarter) })
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	for i := range d.net.halves {
		g.Go(func() error { return d.fetch(gctx, i, count) })
	}
	g.Go(func() error {
		select {
		case <-quarter:
		case <-gctx.Done():
			return context.Cause(gctx)
		}
		at := have.Load()
		if err := d.crashAgent(gctx); err != nil {
			return err
		}
		d.net.open()
		d.say.step("crash", "the agent was killed after %s of the file, and sold again %.1f s later", size(at), d.report.Crash.Seconds)
		return nil
	})
	return g.Wait()
}

// fetchAround fetches one half before the crash and one after it.
func (d *demo) fetchAround(ctx context.Context, have *atomic.Int64) error {
	count := func(n int) { have.Add(int64(n)) }
	if err := d.fetch(ctx, 0, count); err != nil {
		return err
	}
	if err := d.crashAgent(ctx); err != nil {
		return err
	}
	d.say.step("crash", "the agent was killed between two requests, and sold again %.1f s later", d.report.Crash.Seconds)
	return d.fetch(ctx, 1, count)
}

// fetch fetches half i through the proxy of the same number.
func (d *demo) fetch(ctx context.Context, i int, count func(int)) error {
	f := fetcher{url: d.net.url(i), half: d.net.halves[i], count: count}
	f.name, f.proxy = "SOCKS5", "socks5h://"+d.buyer.socks
	if i == 1 {
		f.name, f.proxy = "HTTP", "http://"+d.buyer.http
	}
	if err := f.run(ctx); err != nil {
		return err
	}
	d.say.step(f.name, "proxy: half %d of the file, %s%s", i+1, size(f.have), resumptions(f.resumed))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.report.Transfer.Resumed += f.resumed
	return nil
}

func resumptions(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", with %d break", n)
}

// packetSizes are the datagrams that are echoed, a few times each: the largest
// does not fit a datagram of the tunnel's.
func packetSizes() []int {
	var sizes []int
	for range 20 {
		sizes = append(sizes, 16, 128, 512, 1200, 4000)
	}
	return sizes
}

// echoPackets sends datagrams there and back, before and after the crash.
func (d *demo) echoPackets(ctx context.Context) error {
	sizes := packetSizes()
	again, err := echo(ctx, d.buyer.socks, d.net.echo(), sizes)
	if err != nil {
		return err
	}
	d.report.UDP.Echoed += len(sizes)
	d.report.UDP.SentAgain += again
	d.say.step("UDP", "%d datagrams went there and back through SOCKS5", len(sizes))
	return nil
}

// seconds and round make numbers that people read.
func seconds(t time.Duration) float64 { return round(t.Seconds()) }

func round(f float64) float64 { return float64(int64(f*1000+0.5)) / 1000 }
