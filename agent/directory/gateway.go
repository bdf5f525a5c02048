package directory

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/agent/gateway"
	"github.com/depinsim/x402/channel"
)

// GatewayConfig says how a relay's gateway runs. Without a wallet there is none,
// and the relay holds no money.
type GatewayConfig struct {
	// Wallet is the file of the key that pays agents and customers, and
	// PassphraseFile opens it; "": buyer.PassphraseEnv does.
	Wallet, PassphraseFile string
	// Gateway is the rest: Key, TLS, Host and Logger are the relay's to fill in.
	Gateway gateway.Config
}

// key opens the wallet. Nobody is there to be asked for the passphrase.
func (c GatewayConfig) key() (*channel.Key, error) {
	w, err := buyer.LoadWallet(c.Wallet)
	if err != nil {
		return nil, err
	}
	source := buyer.PassphraseSource{File: c.PassphraseFile, Prompt: func(string) (string, error) {
		return "", fmt.Errorf("a passphrase is needed: set gateway.passphrase_file, or the variable %s", buyer.PassphraseEnv)
	}}
	passphrase, err := source.Get()
	if err != nil {
		return nil, err
	}
	return w.Open(passphrase)
}

// openGateway opens the gateway, which shows the relay's certificate.
func (c Config) openGateway(id identity, log *slog.Logger) (*gateway.Gateway, error) {
	key, err := c.Gateway.key()
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	gc := c.Gateway.Gateway
	gc.Key, gc.Host, gc.Logger = key, c.host(), log.With("part", "gateway")
	gc.TLS = &tls.Config{Certificates: []tls.Certificate{id.Certificate}, GetCertificate: id.renewed}
	gc.Payment = withPaymentDefaults(gc.Payment)
	g, err := gateway.Open(gc)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	return g, nil
}

func withPaymentDefaults(p agent.Payment) agent.Payment {
	c := TollConfig{Payment: p}.withDefaults()
	return c.Payment
}

// close closes what is open.
func (r relayed) close() error {
	var errs []error
	if r.gateway != nil {
		errs = append(errs, r.gateway.Close())
	}
	if r.toll != nil {
		errs = append(errs, r.toll.Close())
	}
	if r.watch != nil {
		errs = append(errs, r.watch.Close())
	}
	return errors.Join(errs...)
}
