package chaos

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/depinsim/x402/scripts/netlab"
)

// flows begins a download and an upload and waits until both are going.
func (s *stage) flows() []*flow {
	s.t.Helper()
	all := []*flow{s.site.flow("down"), s.site.flow("up")}
	s.steady(soon, "flows begin", all)
	for _, f := range all {
		f.pulse.rest()
	}
	return all
}

// steady waits until each flow has carried a good deal more, and returns how
// long that took.
func (s *stage) steady(limit time.Duration, what string, all []*flow) time.Duration {
	s.t.Helper()
	const more = 256 << 10
	ends := make([]uint64, len(all))
	for i, f := range all {
		ends[i] = f.pulse.count() + more
	}
	took := s.within(limit, what, func(h *hub) bool {
		left := false
		for i, f := range all {
			left = left || f.pulse.count() < ends[i] && !f.ended()
		}
		return !left
	})
	for _, f := range all {
		if f.ended() {
			s.t.Fatalf("%s: the flow %s has ended: %v\n%s", what, f.name, f.err, s.hub.tails())
		}
	}
	return took
}

// end ends flows in order.
func (s *stage) end(all []*flow) {
	s.t.Helper()
	for _, f := range all {
		close(f.over)
	}
	for _, f := range all {
		s.within(soon, "the flow "+f.name+" ends", func(*hub) bool { return f.ended() })
		if f.err != nil {
			s.t.Errorf("the flow %s: %v", f.name, f.err)
		}
	}
}

// curl fetches a page and puts a file, by SOCKS5.
func (s *stage) curl(bytes int) {
	s.t.Helper()
	file := s.path("file")
	s.must(os.WriteFile(file, []byte(strings.Repeat(string(block), bytes/len(block)+1)), 0o600))
	url := fmt.Sprintf("http://%s:%d/%d", s.w.Target, pagesPort, bytes)
	for _, args := range [][]string{{"-o", "fetched"}, {"-T", file, "-o", "answer"}} {
		cmd := s.w.Buyer.Command(s.ctx, append([]string{"curl", "-sSf", "--proxy", "socks5h://" + socksAddr, url}, args...)...)
		cmd.Dir = s.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			s.t.Fatalf("curl: %v: %s\n%s", err, out, s.hub.tails())
		}
	}
	sent, err := os.ReadFile(file)
	s.must(err)
	got, err := os.ReadFile(s.path("fetched"))
	s.must(err)
	if string(got) != string(sent[:bytes]) {
		s.t.Errorf("%d bytes were fetched that are not the page's", len(got))
	}
	answer, err := os.ReadFile(s.path("answer"))
	s.must(err)
	if want := fmt.Sprintln(len(sent), nil); string(answer) != want {
		s.t.Errorf("the site says %q of the upload, want %q", answer, want)
	}
}

// TestLabSymmetric: what has no way around the relay goes by it.
func TestLabSymmetric(t *testing.T) {
	s := newStage(t, casting{buyerNAT: netlab.Symmetric, agentNAT: netlab.Symmetric, relays: 1, rate: 20e6})
	moved := s.hub.line(s.buyer.name, "direct=true")
	took := s.startBuyer()
	s.curl(3_000_000)
	s.end(s.flows())
	if s.hub.saw(moved) {
		t.Errorf("the buyer says that it is on a direct path\n%s", s.hub.tails())
	}
	s.settle()
	t.Logf("connected by the relay in %v", took)
}
