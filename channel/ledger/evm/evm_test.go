package evm

import (
	"context"
	"errors"
	"log/slog"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
	"github.com/depinsim/x402/channel/ledger/evm/evmtest"
	"github.com/depinsim/x402/channel/ledger/ledgertest"
	"github.com/depinsim/x402/channel/x402"
)

func TestConformance(t *testing.T) {
	ledgertest.Run(t, func(t *testing.T) ledgertest.Home {
		return setup(t, evmtest.Simulated(t, evmtest.Config{}), nil)
	})
}

// TestConformanceAnvil: another maker's node.
func TestConformanceAnvil(t *testing.T) {
	ledgertest.Run(t, func(t *testing.T) ledgertest.Home {
		return setup(t, evmtest.Anvil(t, evmtest.Config{}), nil)
	})
}

const parties = 4

// A world is a home on a chain, with the money and the payers around it.
type world struct {
	*Home
	chain  *evmtest.Chain
	config Config
	keys   map[channel.Address]*channel.Key
	stop   func()

	mu   sync.Mutex
	sent map[ledger.Op]x402.Withdraw
}

// setup opens a home on a chain and runs it until the test ends. change may
// alter its configuration.
func setup(t *testing.T, chain *evmtest.Chain, change func(*Config)) *world {
	t.Helper()
	key := ledgertest.Key(t, "facilitator")
	w := &world{chain: chain, keys: map[channel.Address]*channel.Key{}, sent: map[ledger.Op]x402.Withdraw{}}
	p := chain.Params()
	w.config = Config{
		Dir: t.TempDir(), RPC: chain.URL, ChainID: p.ChainID, Token: p.Token, Name: p.Name, Version: p.Version,
		Signer: withKey(key), NativePrice: 1, Poll: 50 * time.Millisecond, Stuck: 2 * time.Second, Answer: time.Minute,
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&w.config)
	}
	chain.Fund(key.Address())
	for i := range parties {
		payer := ledgertest.NewParty(t, p, i).Payer
		w.keys[payer.Address()] = payer
		chain.Fund(payer.Address())
	}
	w.open(t)
	return w
}

// restart ends the home and opens it again.
func (w *world) restart(t *testing.T) {
	t.Helper()
	w.stop()
	w.open(t)
}

// open opens the home and runs it until w.stop or the end of the test.
func (w *world) open(t *testing.T) {
	t.Helper()
	h, err := Open(t.Context(), w.config)
	if err != nil {
		t.Fatal(err)
	}
	w.Home = h
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := h.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	w.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(w.stop)
}

func (w *world) Mint(to channel.Address, amount channel.Amount) { w.chain.Mint(to, amount) }
func (w *world) Time() uint64                                   { return w.chain.Time() }
func (w *world) Advance(d time.Duration)                        { w.chain.Advance(d) }

// Withdraw signs the payer's transaction once and has the home pass it on.
func (w *world) Withdraw(ctx context.Context, op ledger.Op) (ledger.Receipt, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, ok := w.sent[op]
	var c channel.Config
	if !ok {
		switch op := op.(type) {
		case ledger.InitiateWithdraw:
			c, m = op.Config, x402.Withdraw{Step: x402.WithdrawInitiate, Amount: op.Amount}
		case ledger.FinalizeWithdraw:
			c, m = op.Config, x402.Withdraw{Step: x402.WithdrawFinalize}
		}
		m.Network, m.Channel = w.params.Network(), w.params.Domain().ID(c)
		var err error
		if m.Transaction, err = w.signWithdraw(ctx, c, m); err != nil {
			return ledger.Receipt{}, err
		}
	}
	r, err := w.Home.Withdraw(ctx, c, m)
	if err == nil {
		w.sent[op] = m
	}
	return r, err
}

func (w *world) signWithdraw(ctx context.Context, c channel.Config, m x402.Withdraw) ([]byte, error) {
	data, err := packWithdraw(c, m.Step == x402.WithdrawInitiate, m.Amount)
	if err != nil {
		return nil, err
	}
	payer := w.keys[c.Payer]
	if payer == nil {
		return nil, errors.New("no key of the payer")
	}
	nonce, err := w.chain.Client.PendingNonceAt(ctx, common.Address(payer.Address()))
	if err != nil {
		return nil, err
	}
	chain, to := wide(w.params.ChainID), common.Address(w.params.Domain().Contract)
	tx, err := withKey(payer).sign(ctx, types.NewTx(&types.DynamicFeeTx{
		ChainID: chain, Nonce: nonce, GasTipCap: big.NewInt(1e9), GasFeeCap: big.NewInt(20e9), Gas: 200_000, To: &to, Data: data,
	}), types.LatestSignerForChainID(chain))
	if err != nil {
		return nil, err
	}
	return tx.MarshalBinary()
}
