package server

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/depinsim/x402/channel"
	"github.com/depinsim/x402/channel/ledger"
)

// POST /rpc speaks as much of Ethereum's JSON-RPC as stock x402 clients use to
// look at a channel after they lost their records: eth_chainId, and eth_call of
// two views, as Solidity's ABI encodes them. There is one block, the latest;
// nothing can be sent.
//
//	channels(bytes32)   (balance, totalClaimed) of the settlement contract
//	balanceOf(address)  of the asset
type rpcRequest struct {
	Version string            `json:"jsonrpc"`
	ID      json.RawMessage   `json:"id"`
	Method  string            `json:"method"`
	Params  []json.RawMessage `json:"params"`
}

type rpcResponse struct {
	Version string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Result  string          `json:"result,omitempty"`
	Error   *rpcError       `json:"error,omitempty"`
}

type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// Codes of JSON-RPC 2.0 §5.1.
const (
	rpcInvalid  = -32600
	rpcNoMethod = -32601
	rpcParams   = -32602
	rpcInternal = -32603
)

// rpc answers POST /rpc. Its errors have status 200, as nodes send them.
func (s *Server) rpc(w http.ResponseWriter, r *http.Request) {
	out := rpcResponse{Version: "2.0", ID: json.RawMessage("null")}
	answer := func(code int, message string) {
		out.Error = &rpcError{code, message}
		writeJSON(w, http.StatusOK, out)
	}
	var req rpcRequest
	if !decode(r, &req, func(_ int, _, message string) { answer(rpcInvalid, message) }) {
		return
	}
	if len(req.ID) > 0 {
		out.ID = req.ID
	}
	switch req.Method {
	case "eth_chainId":
		out.Result = fmt.Sprintf("%#x", s.params.ChainID)
	case "eth_call":
		call, err := s.parseCall(req.Params)
		if err != nil {
			answer(rpcParams, err.Error())
			return
		}
		st, err := s.ledger.Read(r.Context(), call.touch)
		if err != nil {
			s.log.Error("ledger read", "err", err)
			answer(rpcInternal, "the ledger cannot be read")
			return
		}
		out.Result = "0x" + hex.EncodeToString(call.result(st))
	default:
		answer(rpcNoMethod, "this ledger answers eth_chainId and eth_call; it is no chain")
		return
	}
	writeJSON(w, http.StatusOK, out)
}

// A view is what an eth_call reads, and how that is written.
type view struct {
	touch  ledger.Touch
	result func(ledger.State) []byte
}

// parseCall reads the parameters of an eth_call: whom is asked, and what.
func (s *Server) parseCall(params []json.RawMessage) (view, error) {
	var call struct {
		To    channel.Address `json:"to"`
		Data  string          `json:"data"`
		Input string          `json:"input"` // what newer clients call data
	}
	if len(params) == 0 {
		return view{}, fmt.Errorf("eth_call without a call")
	}
	if err := json.Unmarshal(params[0], &call); err != nil {
		return view{}, err
	}
	if call.Data == "" {
		call.Data = call.Input
	}
	data, err := hex.DecodeString(strings.TrimPrefix(call.Data, "0x"))
	if err != nil || len(data) != 4+32 {
		return view{}, fmt.Errorf("want channels(bytes32) of %s or balanceOf(address) of %s",
			s.params.Domain().Contract, s.params.Token)
	}
	selector, word := [4]byte(data), channel.Hash(data[4:])
	switch {
	case call.To == s.params.Domain().Contract && selector == selectorOf("channels(bytes32)"):
		id := channel.ID(word)
		return view{ledger.Touch{Channels: []channel.ID{id}}, func(st ledger.State) []byte {
			c := st.Channels[id]
			return appendWord(appendWord(nil, c.Balance), c.Claimed)
		}}, nil
	case call.To == s.params.Token && selector == selectorOf("balanceOf(address)"):
		a := channel.Address(word[12:])
		return view{ledger.Touch{Accounts: []channel.Address{a}}, func(st ledger.State) []byte {
			return appendWord(nil, st.Accounts[a])
		}}, nil
	}
	return view{}, fmt.Errorf("%s has no function %x here", call.To, selector)
}

// selectorOf is how the ABI names a function.
func selectorOf(signature string) [4]byte {
	h := channel.Keccak256([]byte(signature))
	return [4]byte(h[:])
}

// appendWord appends a number as the ABI writes it.
func appendWord(b []byte, v channel.Amount) []byte {
	return binary.BigEndian.AppendUint64(append(b, make([]byte, 24)...), uint64(v))
}
