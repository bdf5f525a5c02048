package main

const receiptsHelp = `NAME
    x402-agent receipts - export what was sold, signed by the agent

SYNOPSIS
    x402-agent receipts [flags]

DESCRIPTION
    Shows the receipts of the sessions through which something came, one each:
    who bought, how many bytes, at what price, and by which voucher that is paid.
    The agent signs them with its device key, and its buyers have the same:
    anybody can check one without asking anybody, with x402 receipts verify.

    A receipt is made when its session has ended; of one that a power cut has
    ended, at the next start. UP, DOWN and USD are the session's bytes and what
    they cost; UNPAID is what the channel owed beyond its newest voucher. The
    channel's totals are in the exported fields: "owed" is all that its sessions
    came to, with what was paid for other addresses, and "maxClaimableAmount"
    what its voucher pays.

    The newest 320 to 640 are kept, a device's flash being small: export them
    before older ones give way. The times are the device's clock, which may be
    wrong. It needs no agent that runs, but the right to read its files.

FLAGS
    --config FILE     File of the agent, which names its state directory.
                      Default /etc/x402/agent.toml.
    --csv             Print CSV (RFC 4180), the first line being names: amounts
                      in atomic units (1 USD is 1000000) and in USD.
    --json            Print a line of JSON a receipt, with the same names.
    --sim NAME        Only this SIM, of several in one agent: its folder in
                      STATE_DIR/sims.
    --since TIME      Only those kept on this day or later, as 2006-01-31, or
                      since a time, as 2006-01-31T15:04:05Z.
    --help            Show this text.

FILES
    STATE_DIR/receipts, STATE_DIR/receipts.old

EXIT STATUS
    0 done, 1 failed, 2 wrong flags or config.

EXAMPLES
    x402-agent receipts
    x402-agent receipts --csv --since 2026-01-01 > 2026.csv
    x402-agent receipts --json | x402 receipts verify -
`
