package evm

import (
	"context"
	"fmt"
	"math/big"

	"github.com/ethereum/go-ethereum/common"
)

// Rollups of the OP stack, such as Base, take a fee for what a transaction's bytes
// cost on the chain below, besides its gas. What it is now says GasPriceOracle,
// which is on each of them at the same address.
var oracleAddress = common.HexToAddress("0x420000000000000000000000000000000000000F")

const (
	oracleABI = `[{"type":"function","stateMutability":"view","name":"getL1Fee","inputs":[{"name":"data","type":"bytes"}],"outputs":[{"name":"","type":"uint256"}]}]`

	// dataBase is how many bytes a transaction has besides its call, and dataBatch
	// how many a call has among others: its place in a multicall.
	dataBase  = 250
	dataBatch = 96
)

var oracle = mustParse(oracleABI)

// A dataFee is what the bytes of a transaction cost besides gas, in wei. The zero
// dataFee is a chain's that takes none.
type dataFee struct {
	wei   *big.Int // of so many bytes
	bytes int
}

// of is what n bytes cost, rounded up. The fee goes by what the bytes compress to,
// and calls of one kind compress alike.
func (d dataFee) of(n int) *big.Int {
	if d.wei == nil {
		return new(big.Int)
	}
	cost := new(big.Int).Mul(d.wei, big.NewInt(int64(n)))
	per := big.NewInt(int64(d.bytes))
	return cost.Add(cost, per).Sub(cost, common.Big1).Div(cost, per)
}

// priceData asks what bytes cost now, by the longest call that waits, and notes how
// many each has.
func (r *round) priceData(ctx context.Context) error {
	if !r.hasOracle {
		return nil
	}
	var sample []byte
	for i := range r.waiting {
		c, err := r.callOf(r.waiting[i].op)
		if err != nil {
			return err
		}
		r.waiting[i].bytes = dataBatch + len(c.data)
		if len(c.data) > len(sample) {
			sample = c.data
		}
	}
	if sample == nil {
		return nil
	}
	data, err := oracle.Pack("getL1Fee", sample)
	if err != nil {
		return err
	}
	out, err := r.node.call(ctx, call{oracleAddress, data})
	if err != nil {
		return err
	}
	wei := new(big.Int).SetBytes(out)
	if len(out) != 32 || wei.BitLen() > 96 {
		return failed("fee for data", fmt.Errorf("%.40x", out))
	}
	r.data = dataFee{wei, len(sample)}
	return nil
}
