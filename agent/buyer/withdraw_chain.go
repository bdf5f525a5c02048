package buyer

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/x402"
)

// ErrNoNode says that a withdrawal needs a Node: on a chain the payer's account
// sends it itself and pays its gas.
var ErrNoNode = errors.New("on a chain the wallet's own account sends a withdrawal and pays its gas: a node of the chain has to be asked")

// maxGas is how much gas a step of a withdrawal may need; one takes about a
// fifth of it.
const maxGas = 500_000

// A Node is a node of an EVM chain, by JSON-RPC over HTTP. It is asked for what a
// transaction needs, and sends none. It is not trusted: what it says cannot make
// a transaction cost more than allowed.
type Node struct {
	url  string   // no error tells it, for that of a public node holds a key
	most *big.Int // wei that a transaction may cost

	client http.Client
}

// NewNode returns the node at an http or https URL, for transactions that may cost
// so many wei at most.
func NewNode(rawURL string, most *big.Int) (*Node, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("want http://HOST[:PORT][/PATH] or https")
	}
	return &Node{url: rawURL, most: most, client: http.Client{Timeout: 10 * time.Second}}, nil
}

// send signs the transaction that does a step of a withdrawal, and has the
// facilitator send it.
func (x Holdings) send(ctx context.Context, h Holding, w x402.Withdraw) error {
	if x.Node == nil {
		return ErrNoNode
	}
	t := transaction{chain: h.State.Domain.ChainID, to: h.State.Domain.Contract, data: withdrawCall(h.State.Config, w)}
	if err := x.Node.fill(ctx, &t, x.Key.Address()); err != nil {
		return err
	}
	w.Transaction = t.sign(x.Key)
	_, err := x.Facilitator.Withdraw(ctx, w)
	return err
}

// fill asks for what t needs to be sent by an account, and whether that can pay
// for it.
func (n *Node) fill(ctx context.Context, t *transaction, from channel.Address) error {
	network := channel.NetworkName(t.chain)
	chain, err := n.number(ctx, "eth_chainId")
	if err != nil {
		return err
	}
	if chain != t.chain {
		return fmt.Errorf("the node is one of %s, and the channel is on %s", channel.NetworkName(chain), network)
	}
	if t.nonce, err = n.number(ctx, "eth_getTransactionCount", from, "latest"); err != nil {
		return err
	}
	pending, err := n.number(ctx, "eth_getTransactionCount", from, "pending")
	if err != nil {
		return err
	}
	if pending > t.nonce {
		return fmt.Errorf("a transaction of %s on %s is not confirmed yet: wait until it is, then run this again", from, network)
	}
	if t.tip, err = n.number(ctx, "eth_maxPriorityFeePerGas"); err != nil {
		return err
	}
	price, err := n.number(ctx, "eth_gasPrice")
	if err != nil {
		return err
	}
	if t.most = 2 * max(price, t.tip); t.most/2 < price || t.most/2 < t.tip {
		return errors.New("the node's price of gas is too large")
	}
	call := map[string]any{"from": from, "to": t.to, "data": "0x" + hex.EncodeToString(t.data)}
	if t.gas, err = n.number(ctx, "eth_estimateGas", call); err != nil {
		return fmt.Errorf("try the withdrawal: %w", err)
	}
	if t.gas > maxGas {
		return fmt.Errorf("the withdrawal needs %d gas, more than %d", t.gas, maxGas)
	}
	t.gas += t.gas / 4
	return n.affords(ctx, *t, from)
}

func (n *Node) affords(ctx context.Context, t transaction, from channel.Address) error {
	network := channel.NetworkName(t.chain)
	if t.cost().Cmp(n.most) > 0 {
		return fmt.Errorf("the gas of the withdrawal may cost %s ether on %s, at most %s are allowed", Ether(t.cost()), network, Ether(n.most))
	}
	have, err := n.quantity(ctx, "eth_getBalance", from, "latest")
	if err != nil {
		return err
	}
	if have.Cmp(t.cost()) < 0 {
		return fmt.Errorf("the gas of the withdrawal may cost %s ether, and %s holds %s on %s: send it what is missing", Ether(t.cost()), from, Ether(have), network)
	}
	return nil
}

// Ether writes wei in whole coins, exactly.
func Ether(wei *big.Int) string {
	digits := fmt.Sprintf("%019s", wei)
	text := digits[:len(digits)-18] + "." + digits[len(digits)-18:]
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

// number is a quantity of 64 bits.
func (n *Node) number(ctx context.Context, method string, params ...any) (uint64, error) {
	q, err := n.quantity(ctx, method, params...)
	if err != nil {
		return 0, err
	}
	if !q.IsUint64() {
		return 0, fmt.Errorf("the node's answer to %s is too large", method)
	}
	return q.Uint64(), nil
}

// quantity asks for a number, as JSON-RPC writes it: 0x and its digits.
func (n *Node) quantity(ctx context.Context, method string, params ...any) (*big.Int, error) {
	if params == nil {
		params = []any{}
	}
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		return nil, err
	}
	var answer struct {
		Result string `json:"result"`
		Error  *struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	if err := n.exchange(ctx, body, &answer); err != nil {
		return nil, fmt.Errorf("ask the node for %s: %w", method, err)
	}
	if answer.Error != nil {
		return nil, fmt.Errorf("the node refuses %s: %.120s", method, answer.Error.Message)
	}
	digits, ok := strings.CutPrefix(answer.Result, "0x")
	q, isNumber := new(big.Int).SetString(digits, 16)
	if !ok || !isNumber || q.Sign() < 0 || len(digits) > 64 {
		return nil, fmt.Errorf("the node answers %s with no number: %.40q", method, answer.Result)
	}
	return q, nil
}

// exchange sends one request. Its errors do not tell the URL.
func (n *Node) exchange(ctx context.Context, body []byte, answer any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.url, bytes.NewReader(body))
	if err != nil {
		return errors.New("malformed URL")
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := n.client.Do(req)
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close() // nothing of it is needed any more
	text, err := io.ReadAll(io.LimitReader(resp.Body, x402.MaxBody))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("status %d, no answer in JSON-RPC", resp.StatusCode)
	}
	return nil
}
