package evm

import (
	"fmt"

	"github.com/depinsim/x402/channel"
)

// A Network is what is known of a public chain.
type Network struct {
	Token         channel.Address
	Name, Version string // of the token's EIP-712 domain
	Confirmations uint64
}

// Known returns the asset of a public chain that this program knows: Circle's
// USDC (developers.circle.com, "USDC Contract Addresses").
func Known(chainID uint64) (Network, bool) {
	switch chainID {
	case 8453: // Base
		return Network{channel.Address{0x83, 0x35, 0x89, 0xfC, 0xD6, 0xeD, 0xb6, 0xE0, 0x8f, 0x4c,
			0x7C, 0x32, 0xD4, 0xf7, 0x1b, 0x54, 0xbd, 0xA0, 0x29, 0x13}, "USD Coin", "2", 1}, true
	case 84532: // Base Sepolia
		return Network{channel.Address{0x03, 0x6C, 0xbD, 0x53, 0x84, 0x2c, 0x54, 0x26, 0x63, 0x4e,
			0x79, 0x29, 0x54, 0x1e, 0xC2, 0x31, 0x8f, 0x3d, 0xCF, 0x7e}, "USDC", "2", 1}, true
	}
	return Network{}, false
}

// Local reports whether a chain id is one that only test chains have: those of
// anvil and hardhat, of geth in development, and the private range.
func Local(chainID uint64) bool {
	return chainID == 31337 || chainID == 1337 || chainID >= channel.FirstPrivate
}

// checkContracts refuses addresses that are not the canonical ones on a chain
// whose money is real, so that no test contract is ever taken for the real one.
func (c Config) checkContracts() error {
	custom := !c.Contract.IsZero() && c.Contract != channel.SettlementContract() ||
		!c.Collector.IsZero() && c.Collector != channel.ERC3009Collector()
	if custom && !Local(c.ChainID) && !c.AllowCustom {
		return fmt.Errorf("%s is a public chain, where the contracts are %s and %s: other ones need --allow-custom-contract",
			channel.NetworkName(c.ChainID), channel.SettlementContract(), channel.ERC3009Collector())
	}
	return nil
}
