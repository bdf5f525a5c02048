package server

import (
	"sync"
	"testing"
	"time"

	"github.com/depinsim/x402/tunnel/relay"
	"github.com/depinsim/x402/tunnel/relay/market"
)

// TestRenewedIsTold has an agent come by one connection after the other while
// buyers ask for it: of every session that they are given it hears by one of them.
func TestRenewedIsTold(t *testing.T) {
	r := startRelay(t, func(c *Config) {
		often := Rate{1_000, time.Second}
		c.Limits.Requests, c.Limits.SessionRequests, c.Limits.SourceSessions, c.Limits.AgentSessions = often, often, 1_000, 1_000
	})
	client := market.New(market.Config{Name: r.name})
	defer client.Close()
	_, _, told, _ := known(t, r, 1)
	heard := map[relay.SessionID]bool{}
	for range 10 {
		given := make(chan relay.SessionID, 8)
		var asking sync.WaitGroup
		for range cap(given) {
			asking.Go(func() {
				a, err := client.Session(t.Context(), market.Request{Agent: testAgent(1)})
				if err != nil {
					t.Error(err)
					return
				}
				given <- a.ID
			})
		}
		_, _, next, _ := known(t, r, 1)
		asking.Wait()
		close(given)
		for id := range given {
			for timeout := time.After(patience); !heard[id]; {
				select {
				case a := <-told:
					heard[a.ID] = true
				case a := <-next:
					heard[a.ID] = true
				case <-timeout:
					t.Fatalf("the agent has not heard of session %v", id)
				}
			}
		}
		told = next
	}
}
