package server

import (
	"crypto/ecdsa"
	"crypto/tls"

	"github.com/depinsim/x402/tunnel"
)

// SelfSigned makes a certificate for a relay that is known by its pin. The
// certificate is for whoever shows it in a browser: names and dates mean
// nothing to agents and buyers.
func SelfSigned(key *ecdsa.PrivateKey) (tls.Certificate, error) {
	return tunnel.Certificate(key, "relay.x402.invalid")
}
