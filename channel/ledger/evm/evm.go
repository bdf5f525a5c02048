// Package evm is the home of a ledger on an EVM chain: the canonical contract
// x402BatchSettlement and a token that speaks EIP-3009. It reads the chain and
// sends what its clients signed; their money it cannot touch. Its own account
// pays the gas.
//
// Every operation that is taken is a job in a journal, on disk before anything
// of it is sent; a job has one account nonce for ever. So a process that is
// killed at any instant finds on its next start what it had sent, sends the very
// same bytes again, and does nothing twice. See decision 30.
//
// Deposits, refunds and transfers are sent at once. Claims and settlements are
// collected over all channels and receivers and sent together, when they are
// worth their gas or a payer withdraws.
package evm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
)

// Config configures a Home. Times and numbers of zero have the defaults named.
type Config struct {
	Dir           string // of the journal
	RPC           string // the node's URL
	ChainID       uint64 // the node must be of this chain
	Token         channel.Address
	Name, Version string // of the token's EIP-712 domain
	Signer        *Signer

	Contract, Collector channel.Address // zero: the canonical ones
	AllowCustom         bool            // of others on a public chain

	Confirmations uint64         // blocks that make a transaction final enough to answer; 1
	MaxGasPrice   uint64         // wei per gas that are never exceeded; 100 gwei
	GasShare      uint64         // hundredths of a percent of a claim's value that its gas may cost; 100
	NativePrice   channel.Amount // of one whole native coin, in units of the token; 3,000 USD
	TakeOver      bool           // begin after transactions of the account that the journal does not know

	Poll   time.Duration // how often the chain is looked at; 1 s
	Answer time.Duration // how long a request may wait for its transaction; 18 s
	Stuck  time.Duration // without a block for it a transaction is sent again, dearer; 30 s
	Logger *slog.Logger  // nil: log nothing
}

// A Home is a ledger on a chain. It is safe for concurrent use. Nothing is sent
// unless Run runs.
type Home struct {
	cfg     Config
	params  ledger.Params
	node    *node
	journal *journal
	log     *slog.Logger
	wake    chan struct{} // one in it: Run is to look now; never closed

	hasOracle bool // of what bytes cost besides gas; set by Open

	// Owned by Run.
	known    map[channel.ID]ledger.Channel // of waiting claims, as they were last read
	seen     uint64                        // logs are read up to this block
	adrift   map[uint64]int                // by nonce: how often another transaction seemed to have it
	seenHead common.Hash                   // all is done that this block allows

	mu      sync.Mutex
	changed chan struct{}   // closed and replaced when a job has changed
	health  error           // why the last look failed
	halted  error           // why nothing is sent any more
	flush   uint64          // jobs up to this one are sent whatever they are worth
	kept    map[uint64]bool // claims and settlements that were weighed and are not worth it
}

// Open opens the journal in cfg.Dir, creating it if there is none, and checks
// that node, chain and contracts are what cfg says.
func Open(ctx context.Context, cfg Config) (*Home, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	h := &Home{
		cfg: cfg, log: cfg.Logger, wake: make(chan struct{}, 1), changed: make(chan struct{}),
		known: map[channel.ID]ledger.Channel{}, adrift: map[uint64]int{},
		params: ledger.Params{
			ChainID: cfg.ChainID, Token: cfg.Token, Name: cfg.Name, Version: cfg.Version,
			Contract: cfg.Contract, Collector: cfg.Collector,
		},
	}
	var err error
	if h.node, err = dialNode(ctx, cfg.RPC); err != nil {
		return nil, err
	}
	if h.journal, err = openJournal(cfg.Dir); err != nil {
		h.node.rpc.Close()
		return nil, err
	}
	if err := h.begin(ctx); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (c *Config) fill() error {
	switch {
	case c.ChainID == 0:
		return errors.New("evm: Config.ChainID is zero")
	case c.Token.IsZero():
		return errors.New("evm: Config.Token is zero")
	case c.Signer == nil:
		return errors.New("evm: Config.Signer is nil")
	case c.Contract == channel.SettlementContract():
		c.Contract = channel.Address{}
	}
	if c.Collector == channel.ERC3009Collector() {
		c.Collector = channel.Address{}
	}
	setDefault(&c.Confirmations, 1)
	setDefault(&c.MaxGasPrice, 100_000_000_000)
	setDefault(&c.GasShare, 100)
	setDefault(&c.NativePrice, 3_000_000_000)
	setDefault(&c.Poll, time.Second)
	setDefault(&c.Answer, 18*time.Second)
	setDefault(&c.Stuck, 30*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c.checkContracts()
}

func setDefault[T comparable](v *T, d T) {
	if *v == *new(T) {
		*v = d
	}
}

// begin compares chain and journal, and finds the account's next nonce.
func (h *Home) begin(ctx context.Context) error {
	genesis, err := h.checkChain(ctx)
	if err != nil {
		return err
	}
	latest, pending, err := h.node.nonces(ctx, common.Address(h.cfg.Signer.account))
	if err != nil {
		return err
	}
	next, err := h.journal.belongTo(identity{
		ChainID: h.params.ChainID, Genesis: genesis, Account: h.cfg.Signer.account,
		Contract: h.params.Domain().Contract, Token: h.params.Token,
	}, latest)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", h.cfg.Dir, err)
	case h.cfg.TakeOver:
		return h.takeOver(ctx, latest, max(next, pending))
	case pending > next:
		return h.foreign(next, pending)
	}
	return nil
}

// takeOver goes on with the account after transactions of others: what was sent
// under nonces that they used is to be sent anew.
func (h *Home) takeOver(ctx context.Context, latest, next uint64) error {
	_, sents, err := h.journal.open()
	if err != nil {
		return err
	}
	for _, s := range sents {
		var hashes []common.Hash
		for _, a := range s.Attempts {
			hashes = append(hashes, a.Hash)
		}
		receipts, err := h.node.receipts(ctx, hashes)
		if err != nil {
			return err
		}
		if s.Done || s.Nonce >= latest || slices.ContainsFunc(receipts, func(r *types.Receipt) bool { return r != nil }) {
			continue
		}
		jobs, _, err := h.jobsOf(s)
		if err != nil {
			return err
		}
		for i := range jobs {
			jobs[i].State, jobs[i].Nonce = jobWaiting, 0
		}
		h.log.Warn("a nonce was used by a transaction of another: sending its jobs anew", "nonce", s.Nonce, "jobs", len(jobs))
		s.Void = true
		if err := h.journal.save(&s, true, jobs...); err != nil {
			return err
		}
	}
	return h.journal.setNonce(next)
}

// ErrForeign is wrapped by the error that says that another program uses the
// account's key.
var ErrForeign = errors.New("another program uses this key")

func (h *Home) foreign(next, pending uint64) error {
	return fmt.Errorf("account %s has transactions up to nonce %d, the journal in %s knows them only below %d: %w",
		h.cfg.Signer.account, pending-1, h.cfg.Dir, next, ErrForeign)
}

// checkChain compares the node and the contracts with what the configuration
// says, and returns the hash of the chain's first block.
func (h *Home) checkChain(ctx context.Context) (common.Hash, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*callTime)
	defer cancel()
	id, err := h.node.eth.ChainID(ctx)
	if err != nil {
		return common.Hash{}, failed("eth_chainId", err)
	}
	if !id.IsUint64() || id.Uint64() != h.params.ChainID {
		return common.Hash{}, fmt.Errorf("the node is of chain eip155:%s, wanted is %s", id, h.params.Network())
	}
	for _, a := range [...]channel.Address{h.params.Domain().Contract, h.params.DepositCollector(), h.params.Token} {
		code, err := h.node.eth.CodeAt(ctx, common.Address(a), nil)
		if err != nil {
			return common.Hash{}, failed("eth_getCode", err)
		}
		if len(code) == 0 {
			return common.Hash{}, fmt.Errorf("no contract at %s on %s", a, h.params.Network())
		}
	}
	code, err := h.node.eth.CodeAt(ctx, oracleAddress, nil)
	if err != nil {
		return common.Hash{}, failed("eth_getCode", err)
	}
	h.hasOracle = len(code) > 0
	if err := h.checkDomains(ctx); err != nil {
		return common.Hash{}, err
	}
	first, err := h.node.eth.HeaderByNumber(ctx, common.Big0)
	if err != nil {
		return common.Hash{}, failed("first block", err)
	}
	return first.Hash(), nil
}

// checkDomains compares how contract and token hash what is signed with how we
// do: another contract, or a token of another name, is found before any money.
func (h *Home) checkDomains(ctx context.Context) error {
	sample := channel.Config{Payer: channel.Address{1}, Token: h.params.Token, WithdrawDelay: channel.MinWithdrawDelay}
	data, err := settlement.Pack("getChannelId", tupleOf(sample))
	if err != nil {
		return err
	}
	got, err := h.node.call(ctx, call{common.Address(h.params.Domain().Contract), data})
	if err != nil {
		return err
	}
	if want := h.params.Domain().ID(sample); string(got) != string(want[:]) {
		return fmt.Errorf("the contract at %s is no x402BatchSettlement of %s", h.params.Domain().Contract, h.params.Network())
	}
	data, err = token.Pack("DOMAIN_SEPARATOR")
	if err != nil {
		return err
	}
	got, err = h.node.call(ctx, call{common.Address(h.params.Token), data})
	if err != nil {
		return err
	}
	if want := h.params.Asset().Separator(); string(got) != string(want[:]) {
		return fmt.Errorf("token %s does not sign as %q version %q", h.params.Token, h.params.Name, h.params.Version)
	}
	return nil
}

// Params returns what the ledger is.
func (h *Home) Params() ledger.Params { return h.params }

// Account is who sends the transactions and pays for them.
func (h *Home) Account() channel.Address { return h.cfg.Signer.account }

// Close releases the journal. Run must have returned.
func (h *Home) Close() error {
	h.node.rpc.Close()
	return h.journal.db.Close()
}

// Health says why the chain cannot be used at present, or nil.
func (h *Home) Health() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return errors.Join(h.halted, h.health)
}

// Flush has all that waits sent at the next look, whatever it is worth, and
// returns how much waits.
func (h *Home) Flush(context.Context) (int, error) {
	jobs, _, err := h.journal.open()
	if err != nil || len(jobs) == 0 {
		return 0, err
	}
	h.mu.Lock()
	h.flush, h.kept = jobs[len(jobs)-1].Number, nil
	h.mu.Unlock()
	h.poke()
	return len(jobs), nil
}

// poke makes Run look now.
func (h *Home) poke() {
	select {
	case h.wake <- struct{}{}:
	default: // it will
	}
}
