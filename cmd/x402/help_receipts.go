package main

const receiptsHelp = `NAME
    x402 receipts - what agents have signed for, and whether that is so

SYNOPSIS
    x402 receipts [--csv|--json] [--channel ID] [--since TIME] [flags]
    x402 receipts verify [--json] FILE...

DESCRIPTION
    Of each session through which something came there is a receipt, signed by
    the agent's device key: who bought from whom, how many bytes, at what price,
    and by which voucher that is paid. It comes at the session's end; that of a
    session which broke off comes with the next one. It is held against what
    was counted here before it is kept: what is not so is its NOTE, and was
    said at once.

    UP, DOWN and USD are the session's. UNPAID is what the channel owed beyond
    its newest voucher. Exported fields are explained in docs/PROTOCOL.md; the
    agent's owner has the same, by x402-agent receipts.

    "verify" checks receipts that anybody has exported, of FILE or, for -, the
    standard input, without asking anybody: that the channel is the one that its
    parties make, that its agent has signed what is stated, and the payer the
    voucher; that the amounts are those of the bytes and the price. "time" is
    the agent's clock, and "kept" and "note" are whoever kept it: they prove
    nothing.

    There is none from agents of older versions, of what relays were paid, and
    of what x402 pay bought: nobody signs for that.

FLAGS
    --csv                   Print CSV (RFC 4180), the first line being names:
                            amounts in atomic units (1 USD is 1000000) and in
                            USD.
    --json                  Print a line of JSON a receipt, with the same names.
                            With verify: a line a receipt that says whether it
                            is "good", and if not why.
    --channel ID            Only of this channel: its id, or the beginning of it.
    --since TIME            Only those kept on this day or later, as 2006-01-31,
                            or since a time, as 2006-01-31T15:04:05Z.
    --state DIR             Folder of channels and offers. Default
                            $XDG_STATE_HOME/x402 or ~/.local/state/x402.
    --help                  Show this text.

EXIT STATUS
    0 done, and all receipts are good; 1 failed, or one is not; 2 wrong flags.

EXAMPLES
    x402 receipts
    x402 receipts --csv --since 2026-01-01 > 2026.csv
    x402 receipts verify 2026.csv
    x402 receipts --json | x402 receipts verify --json -
`
