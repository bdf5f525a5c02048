package seller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/modem"
	"github.com/depinsim/x402/tunnel"
	"github.com/depinsim/x402/tunnel/relay"
)

// Config says what an agent sells and how. Zero fields have the defaults named.
type Config struct {
	// StateDir holds keys, vouchers and totals. It must survive reboots.
	StateDir string
	// Listen is the UDP address that buyers reach. Default ":4402".
	Listen string
	// Endpoints are host:port pairs under which buyers find Listen. Default:
	// the address listened on, if it is not a wildcard.
	Endpoints []string
	// ListenTCP is the TCP address for buyers whose network blocks UDP; port 0
	// is UDP's. "" is none. Default: none.
	ListenTCP string
	// KCP takes buyers by KCP too, for paths that throttle QUIC. It costs more
	// of the SIM's plan.
	KCP bool
	// Relays are where buyers find and reach an agent without a public address.
	Relays []relay.Name
	// Rate bounds what is sent to all buyers together, in bytes a second. 0 is
	// no bound.
	Rate uint64
	// Control is the path of the control socket. Default: in StateDir.
	Control string

	Price   agent.Price
	Payment agent.Payment
	Credit  agent.CreditPolicy
	// TotalCredit bounds what all channels together may owe. Default 20 times
	// Credit.Cap.
	TotalCredit channel.Amount

	// MaxSessions bounds sessions at once. Default 32.
	MaxSessions int
	// MaxFlows bounds the flows of one session. Default 256.
	MaxFlows int
	// MaxStrangers bounds the connections of those who have not shown a channel
	// or a token yet. Each may make the agent hold about a quarter of a MiB.
	// Default 64.
	MaxStrangers int

	// SettleEvery is the longest time between two settlements. Default 24 h.
	SettleEvery time.Duration
	// SettleAt is the unclaimed amount that settles at once. Default 1,000,000
	// (1 USD).
	SettleAt channel.Amount

	// Modem is where the SIM is read. Nil sells without naming a SIM. Without Port
	// and Open the modem is looked for: that with IMEI, or any.
	Modem *modem.Config
	// SellNewSIM sells whatever SIM is in the modem. Default: the first, and
	// those that the owner has accepted.
	SellNewSIM bool
	IMEI       string
	// BindTunnel has buyers come by Policy.Interface too.
	BindTunnel bool

	// Name is the line's in status and log, "" if there is one only.
	Name string
	// ID makes the line's key and folder differ from others': its key derives from
	// the device's by ID, and StateDir is lineDir of it. "" is the device itself.
	ID string
	// SIMs are the lines of an agent with several, complete as each is. Without,
	// and without EveryModem, Config itself is the only one.
	SIMs []Config
	// EveryModem makes a line like Config of every modem that is found and not of
	// SIMs.
	EveryModem bool
	// FindModems is where modems are looked for. Default: this machine.
	FindModems modem.FindConfig
	// Retired is a line that sells no more: it claims what it is owed.
	Retired bool

	// Recovery says by what means a modem is brought back.
	Recovery RecoveryPolicy
	// Rotate says when the address is changed.
	Rotate RotatePolicy
	// Policy says which targets buyers may reach.
	Policy PolicyConfig
	// Plan is the SIM's data plan. Nil sells without regard to one.
	Plan *PlanConfig

	Logger *slog.Logger
	// Ready is called once, when buyers are served: the agent listens, its
	// control socket is there and the SIM was read. An error ends Run.
	Ready func(Status) error

	// Socket opens the UDP socket that Run uses and closes. Default: the
	// kernel's, at Listen.
	Socket func(ctx context.Context, listen string) (net.PacketConn, error)
	// Dialer and Facilitator replace the real ones in tests.
	Dialer      tunnel.Dialer
	Facilitator Facilitator
}

// defaultListen is where buyers reach an agent.
const defaultListen = ":4402"

// Limits of what the owner may set.
const (
	minWithdrawDelay = 24 * 60 * 60      // DESIGN: a day for a router that was off
	maxWithdrawDelay = 30 * 24 * 60 * 60 // the contract's own bound
)

func (c Config) withDefaults() (Config, error) {
	if c.StateDir == "" {
		return c, errors.New("state_dir: missing")
	}
	if c.Listen == "" {
		c.Listen = defaultListen
	}
	c.Credit = c.Credit.WithDefaults()
	if c.TotalCredit == 0 {
		c.TotalCredit = 20 * c.Credit.Cap
	}
	if c.MaxSessions == 0 {
		c.MaxSessions = 32
	}
	if c.MaxFlows == 0 {
		c.MaxFlows = 256
	}
	if c.MaxStrangers == 0 {
		c.MaxStrangers = 64
	}
	if c.SettleEvery == 0 {
		c.SettleEvery = 24 * time.Hour
	}
	if c.SettleAt == 0 {
		c.SettleAt = 1_000_000
	}
	if c.Payment.WithdrawDelay == 0 {
		c.Payment.WithdrawDelay = minWithdrawDelay
	}
	if c.Payment.MinDeposit == 0 {
		c.Payment.MinDeposit = 100_000
	}
	if c.Plan != nil && c.Plan.Interface == "" {
		p := *c.Plan
		p.Interface = c.Policy.Interface
		c.Plan = &p
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, c.check()
}

// findsModem says whether the modem is one to look for.
func (c Config) findsModem() bool { return c.Modem != nil && c.Modem.Port == "" && c.Modem.Open == nil }

// lines are those that the config names.
func (c Config) lines() []Config {
	if len(c.SIMs) == 0 && !c.EveryModem {
		return []Config{c}
	}
	return c.SIMs
}

func (c Config) check() error {
	if err := c.Price.Check(); err != nil {
		return err
	}
	if err := c.Credit.Check(c.Price); err != nil {
		return err
	}
	if c.Plan != nil {
		if err := c.Plan.check(); err != nil {
			return err
		}
		for _, step := range c.Plan.Steps {
			raised := c.Price.Raised(step.Price)
			if err := errors.Join(raised.Check(), c.Credit.Check(raised)); err != nil {
				return fmt.Errorf("plan.price_steps: at %d%%: %w", step.Price, err)
			}
		}
	}
	p := c.Payment
	if _, err := p.Domain(); err != nil {
		return fmt.Errorf("payment.network: %w", err)
	}
	switch {
	case p.PayTo.IsZero():
		return errors.New("payment.pay_to: missing: set it to the address that is to be paid, such as your wallet's")
	case p.Asset.IsZero():
		return errors.New("payment.asset: missing: set it to the asset that you accept on the network")
	case p.WithdrawDelay < minWithdrawDelay || p.WithdrawDelay > maxWithdrawDelay:
		return fmt.Errorf("payment.withdraw_delay: %d s, want one day to 30 days", p.WithdrawDelay)
	case c.SettleEvery < time.Minute:
		return fmt.Errorf("settle.every: %v, want at least a minute", c.SettleEvery)
	case c.BindTunnel && c.Policy.Interface == "":
		return errors.New("bind_tunnel: there is no interface: set policy.interface")
	case c.BindTunnel && c.ListenTCP != "":
		return errors.New("listen_tcp: only UDP is tied to an interface: remove it, or set bind_tunnel to false")
	case c.Policy.Interface == InterfaceOfModem && !c.findsModem():
		return errors.New("policy.interface: 'auto' needs a modem that is looked for: set modem.imei, or modem.port to 'auto'")
	}
	for _, e := range c.Endpoints {
		if err := agent.CheckEndpoint(e); err != nil {
			return err
		}
	}
	return nil
}
