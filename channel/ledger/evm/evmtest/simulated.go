package evmtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/eth/ethconfig"
	"github.com/ethereum/go-ethereum/ethclient/simulated"
	gethnode "github.com/ethereum/go-ethereum/node"
	"github.com/ethereum/go-ethereum/params"
	"github.com/ethereum/go-ethereum/rpc"
)

// Simulated starts go-ethereum's simulated chain.
func Simulated(t testing.TB, c Config) *Chain {
	t.Helper()
	c = c.fill()
	socket := filepath.Join(folder(t), "ipc")
	backend := simulated.NewBackend(genesis(t, c), func(node *gethnode.Config, eth *ethconfig.Config) {
		node.IPCPath = socket
		// The rules of today's chains: go-ethereum's own choice has forks that
		// are not out, under which everything costs two to three times the gas.
		rules := *params.AllDevChainProtocolChanges
		rules.OsakaTime, rules.BogotaTime = nil, nil
		rules.ChainID = new(big.Int).SetUint64(c.ID)
		eth.Genesis.Config = &rules
	})
	t.Cleanup(func() { backend.Close() })
	client, err := rpc.DialContext(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	s := &simulation{backend: backend, rpc: client, auto: true}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return newChain(t, c.ID, server.URL, s)
}

// folder returns a new folder with a path short enough for a socket's.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "evm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func genesis(t testing.TB, c Config) types.GenesisAlloc {
	t.Helper()
	alloc := types.GenesisAlloc{common.Address(faucet(t).Address()): {Balance: ether(faucetEther)}}
	for _, p := range c.Place {
		storage := map[common.Hash]common.Hash{}
		for k, v := range p.Storage {
			storage[common.Hash(k)] = common.Hash(v)
		}
		alloc[common.Address(p.Address)] = types.Account{Balance: new(big.Int), Code: p.runtime(t), Storage: storage}
	}
	return alloc
}

// A simulation makes the blocks of a simulated chain and serves its JSON-RPC
// over HTTP. go-ethereum would serve it too, but does not tell at which port, and
// mines only when it is told to.
type simulation struct {
	rpc *rpc.Client

	mu      sync.Mutex // one block at a time
	backend *simulated.Backend
	auto    bool // mine each transaction as it comes
}

func (s *simulation) automine(_ context.Context, on bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.auto = on
	return nil
}

func (s *simulation) mine(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.backend.Commit()
	return nil
}

// advance tries again while the pool still has what the newest block has mined:
// it learns of blocks in a goroutine of its own.
func (s *simulation) advance(ctx context.Context, d time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for {
		err := s.backend.AdjustTime(d)
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return err
		}
	}
}

func (s *simulation) reorg(ctx context.Context, depth int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	head, err := s.backend.Client().BlockNumber(ctx)
	if err != nil {
		return err
	}
	parent, err := s.backend.Client().HeaderByNumber(ctx, new(big.Int).SetUint64(head-uint64(depth)))
	if err != nil {
		return err
	}
	if err := s.backend.Fork(parent.Hash()); err != nil {
		return err
	}
	s.backend.Rollback() // what the abandoned blocks had is back in the pool
	for range depth {
		s.backend.Commit()
	}
	return nil
}

// message is a request or an answer of JSON-RPC 2.0.
type message struct {
	Version string            `json:"jsonrpc"`
	ID      json.RawMessage   `json:"id"`
	Method  string            `json:"method,omitempty"`
	Params  []json.RawMessage `json:"params,omitempty"`
	Result  json.RawMessage   `json:"result,omitempty"`
	Error   *rpcError         `json:"error,omitempty"`
}

type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Data    any    `json:"data,omitempty"`
}

// ServeHTTP answers one request, or several in an array.
func (s *simulation) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 8<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var batch []message
	single := !bytes.HasPrefix(bytes.TrimSpace(body), []byte("["))
	if single {
		batch = make([]message, 1)
		err = json.Unmarshal(body, &batch[0])
	} else {
		err = json.Unmarshal(body, &batch)
	}
	if err != nil {
		http.Error(w, fmt.Sprintf("not JSON-RPC: %v", err), http.StatusBadRequest)
		return
	}
	var answer any
	answers := make([]message, len(batch))
	for i, m := range batch {
		answers[i] = s.answer(r.Context(), m)
	}
	if answer = answers; single {
		answer = answers[0]
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(answer) // an error is the client's, who has left
}

func (s *simulation) answer(ctx context.Context, m message) message {
	params := make([]any, len(m.Params))
	for i, p := range m.Params {
		params[i] = p
	}
	out := message{Version: "2.0", ID: m.ID}
	if err := s.call(ctx, &out.Result, m.Method, params); err != nil {
		out.Result, out.Error = nil, &rpcError{Code: -32000, Message: err.Error()}
		if e, ok := errors.AsType[rpc.Error](err); ok {
			out.Error.Code = e.ErrorCode()
		}
		if e, ok := errors.AsType[rpc.DataError](err); ok {
			out.Error.Data = e.ErrorData()
		}
	} else if out.Result == nil {
		out.Result = json.RawMessage("null")
	}
	return out
}

// call forwards a call; one that sends a transaction returns after the
// transaction is mined, unless mining is stopped.
func (s *simulation) call(ctx context.Context, result *json.RawMessage, method string, params []any) error {
	if method != "eth_sendRawTransaction" {
		return s.rpc.CallContext(ctx, result, method, params...)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.rpc.CallContext(ctx, result, method, params...); err != nil {
		return err
	}
	if s.auto {
		s.backend.Commit()
	}
	return nil
}
