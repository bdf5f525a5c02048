//go:build unix

package quic_test

import (
	"testing"

	"github.com/depinsim/x402/tunnel/tunneltest"
)

func BenchmarkPackets(b *testing.B) { tunneltest.BenchPackets(b, loopback) }
