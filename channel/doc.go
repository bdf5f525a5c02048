// Package channel holds payment channels: the vouchers that pay, the keys that
// sign them, and the newest state of each channel, kept on disk.
//
// A channel is the ChannelConfig of the x402 v2 scheme "batch-settlement" on
// EVM; its [ID] is the EIP-712 hash of that config. A payment is a [Voucher]:
// a cumulative ceiling signed by the payer's authorizer. The newest voucher
// settles everything, so a lost one costs nothing.
//
// The pure core is values: [Amount], [Address], [Domain], [Config] and
// [State], whose Next and Observe say what may follow. [Payee] and [Payer] own
// the states of many channels and keep one order: disk, then memory, then
// peer. They store through a [Store]; [Journal] is the one for routers, and
// package channel/bolt the one for everything else.
//
// What it promises: an amount never wraps, falls or exceeds the deposit; a
// state that was returned is durable; a private key is not printed by
// accident. What it does not: it talks to no ledger and to no peer, and does
// not decide what a byte costs.
package channel
