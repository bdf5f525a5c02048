package chaos

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/depinsim/x402/agent"
	"github.com/depinsim/x402/agent/buyer"
	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/bolt"
)

// buyerVar is set in the environment of a process that is to be the buyer. The
// test brings its own, because this one writes down every voucher that it signs.
const buyerVar = "X402_CHAOS_BUYER"

// buyerConfig is the value of buyerVar. The listeners of the proxies are
// descriptors 3 and 4: they outlive the process.
type buyerConfig struct {
	Key     string         `json:"key"`
	Store   string         `json:"store"`
	Signed  string         `json:"signed"` // file of the vouchers' amounts
	Offer   string         `json:"offer"`
	Budget  channel.Amount `json:"budget"`
	Deposit channel.Amount `json:"deposit"`
}

// said is a line of the buyer's output.
type said struct {
	Status *buyer.Status `json:"status,omitempty"`
	Result *buyer.Result `json:"result,omitempty"`
	Error  string        `json:"error,omitempty"` // with Result
}

// A noted store appends the amount of each voucher to a file, after it was
// stored and before it can be sent.
type noted struct {
	channel.Store
	file *os.File
	max  channel.Amount
}

func (n *noted) Save(s channel.State) error {
	if err := n.Store.Save(s); err != nil || s.Max <= n.max {
		return err
	}
	n.max = s.Max
	_, err := fmt.Fprintln(n.file, uint64(s.Max))
	return err
}

// buyerMain is the buyer's process.
func buyerMain() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	out := json.NewEncoder(os.Stdout)
	result, err := buy(ctx, func(s buyer.Status) {
		_ = out.Encode(said{Status: &s}) // nobody reads: it is about to be killed
	})
	last := said{Result: &result}
	if err != nil {
		last.Error = err.Error()
	}
	_ = out.Encode(last)
	if err != nil {
		return 1
	}
	return 0
}

func buy(ctx context.Context, show func(buyer.Status)) (buyer.Result, error) {
	var c buyerConfig
	if err := json.Unmarshal([]byte(os.Getenv(buyerVar)), &c); err != nil {
		return buyer.Result{}, err
	}
	raw, err := hex.DecodeString(c.Key)
	if err != nil {
		return buyer.Result{}, err
	}
	key, err := channel.ParseKey(raw)
	if err != nil {
		return buyer.Result{}, err
	}
	b, err := os.ReadFile(c.Offer)
	if err != nil {
		return buyer.Result{}, err
	}
	offer, err := agent.ParseOffer(b)
	if err != nil {
		return buyer.Result{}, err
	}
	store, err := bolt.Open(c.Store)
	if err != nil {
		return buyer.Result{}, err
	}
	defer store.Close()
	signed, err := os.OpenFile(c.Signed, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return buyer.Result{}, err
	}
	defer signed.Close()
	socks, err := net.FileListener(os.NewFile(3, "socks"))
	if err != nil {
		return buyer.Result{}, err
	}
	http, err := net.FileListener(os.NewFile(4, "http"))
	if err != nil {
		return buyer.Result{}, err
	}
	return buyer.Run(ctx, buyer.Config{
		Key: key, Store: &noted{Store: store, file: signed}, Offer: offer,
		Budget: c.Budget, MaxPrice: offer.Price.Max(), Deposit: c.Deposit,
		SOCKS: socks, HTTP: http, OnStatus: show,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
}
