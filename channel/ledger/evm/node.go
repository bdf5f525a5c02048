package evm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/ethclient"
	"github.com/ethereum/go-ethereum/rpc"
)

const (
	callTime  = 5 * time.Second // of one request to the node
	maxAnswer = 16 << 20        // bytes of one
	batchSize = 90              // calls in one: public nodes take 100
)

// errNode is wrapped by every error of a node that does not answer, or not what
// was asked. It names no URL: those of public nodes carry a key.
var errNode = errors.New("the chain's node")

// A node is an Ethereum node by JSON-RPC over HTTP. Every call is bounded in
// time and size.
type node struct {
	rpc *rpc.Client
	eth *ethclient.Client
}

func dialNode(ctx context.Context, rawURL string) (*node, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("node URL: want http://HOST[:PORT][/PATH] or https")
	}
	c, err := rpc.DialOptions(ctx, rawURL, rpc.WithHTTPClient(&http.Client{
		Timeout:   callTime,
		Transport: bounded{&http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute}},
	}))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNode, discreet(err))
	}
	return &node{c, ethclient.NewClient(c)}, nil
}

// bounded limits the size of answers.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}

// discreet leaves out of an error where the node is and what it is asked for: the
// errors are told to clients, and the addresses of public nodes hold a key.
func discreet(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if o, ok := errors.AsType[*net.OpError](err); ok {
		err = o.Err
	}
	if d, ok := errors.AsType[*net.DNSError](err); ok {
		return errors.New("name of the node: " + d.Err)
	}
	if h, ok := errors.AsType[rpc.HTTPError](err); ok {
		return errors.New("status " + h.Status)
	}
	return err
}

// failed wraps an error of the node; nil stays nil.
func failed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %s: %w", errNode, what, discreet(err))
}

// head returns the newest block's header.
func (n *node) head(ctx context.Context) (*types.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	h, err := n.eth.HeaderByNumber(ctx, nil)
	if err == nil && (h.Number == nil || !h.Number.IsUint64()) {
		err = errors.New("a block without a number")
	}
	return h, failed("newest block", err)
}

// nonces returns how many transactions the account has in blocks, and with
// those that wait.
func (n *node) nonces(ctx context.Context, a common.Address) (latest, pending uint64, err error) {
	var l, p hexutil.Uint64
	err = n.batch(ctx, []rpc.BatchElem{
		{Method: "eth_getTransactionCount", Args: []any{a, "latest"}, Result: &l},
		{Method: "eth_getTransactionCount", Args: []any{a, "pending"}, Result: &p},
	})
	return uint64(l), max(uint64(l), uint64(p)), err
}

// batch sends calls in groups that nodes take. The first call's error is
// returned.
func (n *node) batch(ctx context.Context, calls []rpc.BatchElem) error {
	for len(calls) > 0 {
		group := calls[:min(len(calls), batchSize)]
		calls = calls[len(group):]
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, callTime)
			defer cancel()
			return n.rpc.BatchCallContext(ctx, group)
		}()
		if err != nil {
			return failed(group[0].Method, err)
		}
		for _, c := range group {
			if c.Error != nil {
				return failed(c.Method, c.Error)
			}
		}
	}
	return nil
}

// view is an eth_call whose answer goes into out.
func view(c call, block *big.Int, out *hexutil.Bytes) rpc.BatchElem {
	return rpc.BatchElem{
		Method: "eth_call",
		Args:   []any{map[string]any{"to": c.to, "data": hexutil.Bytes(c.data)}, hexutil.EncodeBig(block)},
		Result: out,
	}
}

// call runs a view at the newest block.
func (n *node) call(ctx context.Context, c call) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var out hexutil.Bytes
	err := n.rpc.CallContext(ctx, &out, "eth_call", map[string]any{"to": c.to, "data": hexutil.Bytes(c.data)}, "latest")
	return out, failed("eth_call", err)
}

// estimate returns the gas that c takes now, or a *revertError.
func (n *node) estimate(ctx context.Context, from common.Address, c call) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var gas hexutil.Uint64
	err := n.rpc.CallContext(ctx, &gas, "eth_estimateGas", map[string]any{"from": from, "to": c.to, "data": hexutil.Bytes(c.data)})
	if reverted(err) {
		return 0, &revertError{err}
	}
	return uint64(gas), failed("eth_estimateGas", err)
}

// A revertError is the chain's no: the call would fail.
type revertError struct{ error }

func (e *revertError) Unwrap() error { return e.error }

// reverted tells the chain's no from a node's failure. Code 3 is that of geth
// and its kin for a revert; others say so in words.
func reverted(err error) bool {
	e, ok := errors.AsType[rpc.Error](err)
	return ok && (e.ErrorCode() == 3 || strings.Contains(strings.ToLower(e.Error()), "revert"))
}

// send gives a signed transaction to the node. What it holds already is no
// error.
func (n *node) send(ctx context.Context, raw []byte) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	err := n.rpc.CallContext(ctx, nil, "eth_sendRawTransaction", hexutil.Bytes(raw))
	if err != nil && strings.Contains(strings.ToLower(err.Error()), "already") { // "already known", "already imported"
		return nil
	}
	return failed("eth_sendRawTransaction", err)
}

// receipts returns those of the hashes that are in blocks; nil for the others.
func (n *node) receipts(ctx context.Context, hashes []common.Hash) ([]*types.Receipt, error) {
	out := make([]*types.Receipt, len(hashes))
	calls := make([]rpc.BatchElem, len(hashes))
	for i, h := range hashes {
		calls[i] = rpc.BatchElem{Method: "eth_getTransactionReceipt", Args: []any{h}, Result: &out[i]}
	}
	if err := n.batch(ctx, calls); err != nil {
		return nil, err
	}
	for i, r := range out {
		if r != nil && (r.TxHash != hashes[i] || r.BlockNumber == nil || !r.BlockNumber.IsUint64()) {
			return nil, failed("eth_getTransactionReceipt", fmt.Errorf("asked for %s, got %s", hashes[i], r.TxHash))
		}
	}
	return out, nil
}
