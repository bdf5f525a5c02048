package tunneltest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/depinsim/x402/tunnel"
)

// A Transport is what [Run] tries out.
type Transport struct {
	// Simulated connects over a simulated network, inside of a bubble.
	Simulated Dial
	// Loopback connects over real sockets.
	Loopback Dial
	// Tick is how long the transport may keep a packet back to send more in
	// one go.
	Tick time.Duration
	// Idle is what both ends together may hold for a flow that has fallen
	// silent after a burst: mostly what the buyer's next read waits with, which
	// is the larger the fuller reads come.
	Idle int
	// Uploads is how many uploads may be stuck in front of their targets
	// before others are stuck too.
	Uploads int
	// Layered says that the streams are another transport's, which passes this
	// suite itself: a short run leaves the longest tests of streams to that.
	Layered bool
}

// Run is the suite that every transport passes: what docs/PROTOCOL.md promises
// of a tunnel, whatever is below.
func Run(t *testing.T, tr Transport) {
	for _, row := range []struct {
		name string
		test func(*testing.T, Transport)
		long bool // and of streams alone
	}{
		{name: "TCPBothWays", test: testTCPBothWays},
		{name: "FirstByteInOneRoundTrip", test: testFirstByteInOneRoundTrip},
		{name: "RefusedTarget", test: testRefusedTarget},
		{name: "TargetReset", test: testTargetReset},
		{name: "AbandonedDownload", test: testAbandonedDownload},
		{name: "PausedDownloads", test: testPausedDownloads, long: true},
		{name: "StuckUploadGivesCreditBack", test: testStuckUploadGivesCreditBack},
		{name: "StuckUploads", test: testStuckUploads},
		{name: "IdleForHalfAnHour", test: testIdleForHalfAnHour},
		{name: "UDP", test: testUDP},
		{name: "UDPOnLoopback", test: testUDPOnLoopback},
		{name: "UDPIdles", test: testUDPIdles},
		{name: "RandomFlows", test: testRandomFlows},
		{name: "RandomFlowsOnLoopback", test: testRandomFlowsOnLoopback},
		{name: "MaxFlows", test: testMaxFlows},
		{name: "ParallelDownloads", test: testParallelDownloads, long: true},
		{name: "FrozenControlStream", test: testFrozenControlStream, long: true},
		{name: "CancelWhileDialing", test: testCancelWhileDialing},
		{name: "TargetThatNeverAnswers", test: testTargetThatNeverAnswers},
		{name: "DrainEndsEverything", test: testDrainEndsEverything},
		{name: "ConnectionEnds", test: testConnectionEnds},
		{name: "AgentEndsConnection", test: testAgentEndsConnection},
		{name: "IdleFlowsAreSmall", test: testIdleFlowsAreSmall},
		{name: "StopAgainstReset", test: testStopAgainstReset},
		{name: "HostileSteering", test: testHostileSteering},
		{name: "GarbageOnControl", test: testGarbageOnControl},
		{name: "GarbageOnUDPFlow", test: testGarbageOnUDPFlow},
		{name: "BadRequests", test: testBadRequests},
		{name: "ExportedKeys", test: testExportedKeys},
		{name: "UnpaidClientGets402", test: testUnpaidClientGets402},
		{name: "StrangerHeads", test: testStrangerHeads},
		{name: "Pass", test: testPass},
		{name: "Ration", test: testRation},
	} {
		if row.long && tr.Layered && Short() {
			continue
		}
		t.Run(row.name, func(t *testing.T) { row.test(t, tr) })
	}
}

// testExportedKeys compares what both ends derive.
func testExportedKeys(t *testing.T, tr Transport) {
	synctest.Test(t, func(t *testing.T) {
		ends := tr.Simulated(t, Path{})
		var seen [][32]byte
		for _, label := range []string{"EXPORTER-x402-channel", "EXPORTER-x402-path"} {
			a, err := ends.Client.ExportKey(label)
			if err != nil {
				t.Fatal(err)
			}
			b, err := ends.Server.ExportKey(label)
			if err != nil {
				t.Fatal(err)
			}
			if a != b {
				t.Errorf("%s: the ends derive different keys", label)
			}
			seen = append(seen, a)
		}
		if seen[0] == seen[1] || seen[0] == [32]byte{} {
			t.Error("two labels, one key")
		}
		ends.Client.Close(tunnel.ReasonDone, "")
		ends.Server.Close(tunnel.ReasonDone, "")
		ends.Close()
	})
}

// testAgentEndsConnection has the agent say why.
func testAgentEndsConnection(t *testing.T, tr Transport) {
	for _, reason := range []tunnel.Reason{tunnel.ReasonDone, tunnel.ReasonUnpaid, tunnel.ReasonLimit} {
		synctest.Test(t, func(t *testing.T) {
			ends := tr.Simulated(t, Path{Delay: 10 * time.Millisecond})
			var wg sync.WaitGroup
			wg.Go(func() { _ = tunnel.NewSession(ends.Server, tunnel.Config{Dialer: &Net{}}).Run() })
			req, err := ends.Client.Open(t.Context(), tunnel.Header{Method: http.MethodConnect, Authority: "host.test:80"})
			if err != nil {
				t.Fatal(err)
			}
			Pass(time.Second)
			ends.Server.Close(reason, "that was\nall")
			<-ends.Client.Context().Done()
			closed, ok := errors.AsType[*tunnel.CloseError](context.Cause(ends.Client.Context()))
			if !ok || closed.Reason != reason || !closed.Remote || closed.Text != "that was?all" || !errors.Is(closed, net.ErrClosed) {
				t.Errorf("closed with %+v", closed)
			}
			own, ok := errors.AsType[*tunnel.CloseError](context.Cause(ends.Server.Context()))
			if !ok || own.Reason != reason || own.Remote {
				t.Errorf("the agent's own end is %+v", own)
			}
			if _, _, err := req.Answer(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("answer: %v", err)
			}
			if _, err := req.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("write: %v", err)
			}
			if _, err := ends.Client.Open(t.Context(), tunnel.Header{Method: http.MethodConnect, Authority: "host.test:80"}); !errors.Is(err, net.ErrClosed) {
				t.Errorf("open: %v", err)
			}
			ends.Client.Close(tunnel.ReasonDone, "")
			ends.Close()
			wg.Wait()
		})
	}
}

// testGarbageOnControl ends the reading of the control stream with an error,
// which is its owner's to act on.
func testGarbageOnControl(t *testing.T, tr Transport) {
	for name, row := range map[string]struct {
		sent []byte
		end  bool
	}{
		"order without a stream": {[]byte{0xf4, 0x02, 0, 1, 0}, true},
		"endless capsule":        {[]byte{0x94, 0x02, 0, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, false},
		"truncated":              {[]byte{0xff}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ends := tr.Simulated(t, Path{})
				var wg sync.WaitGroup
				wg.Go(func() { receiveGarbage(t, ends.Server, &wg) })
				req, err := ends.Client.Open(t.Context(), tunnel.Header{
					Method: http.MethodConnect, Protocol: "x402-channel", Authority: "agent", Path: tunnel.ControlPath,
				})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := req.Write(row.sent); err != nil {
					t.Fatal(err)
				}
				if row.end {
					req.Close()
				}
				<-ends.Client.Context().Done()
				closed, ok := errors.AsType[*tunnel.CloseError](context.Cause(ends.Client.Context()))
				if !ok || closed.Reason != tunnel.ReasonProtocol || closed.Text != "garbage" || !closed.Remote {
					t.Errorf("closed with %+v", closed)
				}
				ends.Client.Close(tunnel.ReasonDone, "")
				ends.Close()
				wg.Wait()
			})
		})
	}
}

// receiveGarbage is an agent that takes only capsules.
func receiveGarbage(t *testing.T, conn tunnel.ServerConn, wg *sync.WaitGroup) {
	s := tunnel.NewSession(conn, tunnel.Config{Dialer: &Net{}})
	wg.Go(func() { _ = s.Run() })
	ctl, err := s.Control(context.Background())
	if err != nil {
		t.Error(err)
		return
	}
	if _, err := ctl.Receive(); err == nil || err == io.EOF {
		t.Errorf("received with %v", err)
	}
	conn.Close(tunnel.ReasonProtocol, "garbage")
}

// testUnpaidClientGets402 has a client that opens no control stream.
func testUnpaidClientGets402(t *testing.T, tr Transport) {
	synctest.Test(t, func(t *testing.T) {
		ends := tr.Simulated(t, Path{})
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = tunnel.NewSession(ends.Server, tunnel.Config{
				Dialer: &Net{},
				Unpaid: func() tunnel.Fields { return tunnel.Fields{"payment-required": {"terms"}} },
			}).Run()
		})
		req, err := ends.Client.Open(context.Background(), tunnel.Header{Method: http.MethodConnect, Authority: "example.com:80"})
		if err != nil {
			t.Fatal(err)
		}
		status, fields, err := req.Answer()
		if err != nil || status != http.StatusPaymentRequired || fields.Get("payment-required") != "terms" {
			t.Errorf("answer %d %v %v", status, fields, err)
		}
		ends.Client.Close(tunnel.ReasonDone, "")
		ends.Close()
		wg.Wait()
	})
}
