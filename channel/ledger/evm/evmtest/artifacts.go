package evmtest

import (
	_ "embed" // contracts.json
	"encoding/json"
	"fmt"
	"sync"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common/hexutil"
)

//go:generate go test -run TestContracts -update

//go:embed contracts.json
var contractsJSON []byte

// An Artifact is a compiled contract.
type Artifact struct {
	ABI     abi.ABI       `json:"abi"`
	Runtime hexutil.Bytes `json:"runtime"` // what stands on the chain
}

var contracts = sync.OnceValues(func() (all map[string]Artifact, err error) {
	err = json.Unmarshal(contractsJSON, &all)
	return all, err
})

// Compiled returns one of the contracts in contracts/, by its name.
func Compiled(name string) (Artifact, error) {
	all, err := contracts()
	if err != nil {
		return Artifact{}, fmt.Errorf("contracts.json: %w", err)
	}
	a, ok := all[name]
	if !ok {
		return Artifact{}, fmt.Errorf("contracts.json: no contract %s", name)
	}
	return a, nil
}
