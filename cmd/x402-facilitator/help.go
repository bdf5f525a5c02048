package main

const rootHelp = `NAME
    x402-facilitator - settle x402 payment channels

SYNOPSIS
    x402-facilitator COMMAND [flags]

DESCRIPTION
    A facilitator verifies payments and settles channels for buyers and agents,
    by the HTTP API of the x402 standard, version 2 (schemes batch-settlement and
    exact). Whatever happens is signed by those whose money it is, and a claim
    pays nobody but its channel's receiver. There are two kinds of ledger:

    embedded  Amounts are credit that you, its operator, owe to its holders, who
              trust you for it. You hand out credit with issue when you receive
              money, and take it back with redeem when you pay it out. Receivers
              pay a fee of 0.001% of their total.
    evm       Amounts are a token on an EVM chain, held by the x402 settlement
              contract. Nobody has to trust you; you pay the gas.

COMMANDS
    run         serve the facilitator API
    issue       create credit on an account
    redeem      take credit out of an account
    settle      send the claims that wait on a chain now
    audit       recompute the ledger and compare
    version     print the version, like --version
    help        explain a command: x402-facilitator help run

EXIT STATUS
    0 done, 1 failed while running, 2 wrong flags.

EXAMPLES
  Try it, with a faucet that gives credit to anyone:
    x402-facilitator run --dir /tmp/f --dev

  Run it for real, behind a web server that speaks TLS:
    x402-facilitator run --dir /var/lib/x402-facilitator --listen 127.0.0.1:8402
    x402-facilitator issue --dir /var/lib/x402-facilitator --to 0x7099… \
        --amount 25.00 --ref invoice-17 --memo "wire of 3 May"
    x402-facilitator audit --dir /var/lib/x402-facilitator

  Settle in USDC on Base:
    x402-facilitator run --ledger evm --network eip155:8453 --rpc @rpc-url \
        --key key.json --passphrase-file passphrase --dir /var/lib/x402-base
`

const runHelp = `NAME
    x402-facilitator run - serve the facilitator API

SYNOPSIS
    x402-facilitator run --dir DIR [flags]

DESCRIPTION
    Serves until it is told to stop (SIGINT or SIGTERM); a second signal kills.

    The first run creates the ledger in DIR: ledger.db, the records and the
    journal of every transaction; ledger.key, mode 0600, which is the ledger's
    identity: back it up with the database. Its network name, eip155:N with N
    random, and its asset's address belong to this ledger alone.

    With --ledger evm the money is on the chain, and DIR/evm.db is the journal of
    what was sent to it. Deposits, refunds and transfers are sent at once, claims
    and settlements together when their gas is worth it, when a payer withdraws,
    or when you say x402-facilitator settle. Nothing is sent while gas is dearer
    than --max-gas-price. /healthz is 503 while the node cannot be used, the
    account lacks gas, or another program uses its key.

    While it runs, DIR/admin.sock, mode 0600, takes the operator's commands.
    SIGKILL or a power cut at any instant loses nothing that was answered.

    "listening on URL" is printed on the standard output once clients can
    connect; everything else is logged on the standard error.

    The API: POST /verify, POST /settle, GET /supported, GET /healthz (200 or
    503), GET /metrics (Prometheus), GET /v1/channels/{network}/{id},
    GET /v1/accounts/{network}/{address}, GET /v1/totals/{network} and
    POST /v1/withdraw (a payer's timed withdrawal).

FLAGS
    --dir DIR            Folder of the ledger, created if missing. Required.
    --listen ADDR        Where to serve, host:port; port 0 takes a free one.
                         Default 127.0.0.1:8402.
    --ledger KIND        Kind of ledger: embedded, kept in --dir by this process,
                         or evm, on a chain. Default embedded.
    --dev                Open a faucet: POST /v1/faucet gives credit to anyone.
                         Never on a public chain.
    --ready-file FILE    File that holds the URL while clients can connect.
    --verbose            Log refused requests too.
    --help               Show this text.

  With --ledger evm:
    --rpc URL            The chain's node, JSON-RPC over http or https; @FILE
                         reads the URL from a file, since those of public nodes
                         are secret. Required.
    --network NAME       The chain, eip155:N; the node must be of it. Required.
    --key FILE           Key of the account that sends and pays the gas: a geth
                         keystore. Mode 0600. On local chains (1337, 31337) also
                         64 hexadecimal digits.
    --passphrase-file FILE  The keystore's passphrase. Mode 0600.
    --signer URL         Instead of --key: who signs, such as clef, asked by
                         account_signTransaction.
    --signer-account ADDRESS  Its account.
    --asset ADDRESS      The token. Default USDC on Base and on Base Sepolia.
    --asset-name NAME    Name and version of the token's EIP-712 domain. The
    --asset-version V    token is asked whether they are right.
    --confirmations N    Blocks until a transaction counts. Default 1.
    --poll DURATION      How often the node is asked for news. Default 1s.
    --max-gas-price GWEI  Never offered more. Default 100.
    --gas-share PERCENT  Of a claim's value that its gas may cost. Default 1.
    --native-price USD   What the chain's own coin costs, to compare gas with
                         value. Default 3000.
    --contract ADDRESS   The settlement contract and the deposit collector, where
    --collector ADDRESS  they are not at their canonical addresses.
    --allow-custom-contract  Allow that on a public chain.
    --take-over          Begin although the account has transactions that DIR
                         does not know: their sender is stopped for good.

EXIT STATUS
    0 stopped by a signal, 1 failed, 2 wrong flags.

EXAMPLES
    x402-facilitator run --dir /var/lib/x402-facilitator --listen 127.0.0.1:8402
    x402-facilitator run --ledger evm --network eip155:84532 \
        --rpc http://127.0.0.1:8545 --dir sepolia --key key.json \
        --passphrase-file passphrase
`

const issueHelp = `NAME
    x402-facilitator issue - create credit on an account

SYNOPSIS
    x402-facilitator issue --dir DIR --to ADDRESS --amount USD [flags]

DESCRIPTION
    Creates credit on an account: you have received money for it.

    The facilitator must be running in DIR; the order is journalled like any
    transaction. Without --ref, every call is a new order. With it, the same
    order given twice is executed once, so that it can be repeated after a
    failure.

FLAGS
    --dir DIR         Folder of the running facilitator. Required.
    --to ADDRESS      The account, 0x and 40 digits. Required.
    --amount USD      How much, at most six decimals. Required.
    --memo TEXT       For the journal, at most 200 bytes.
    --ref ID          Any ID of your own: the same order with the same ID is
                      executed once.
    --help            Show this text.

EXIT STATUS
    0 done, 1 failed, 2 wrong flags.

EXAMPLES
    x402-facilitator issue --dir /var/lib/x402-facilitator --to 0x7099… \
        --amount 25.00 --ref invoice-17
`

const redeemHelp = `NAME
    x402-facilitator redeem - take credit out of an account

SYNOPSIS
    x402-facilitator redeem --dir DIR --from ADDRESS --amount USD [flags]

DESCRIPTION
    Takes credit out of an account: you have paid its holder, or are about to.

    The facilitator must be running in DIR. The holder signs nothing: take credit
    only from those who asked for it, or let them transfer it to an account of
    yours first.

FLAGS
    --dir DIR         Folder of the running facilitator. Required.
    --from ADDRESS    The account, 0x and 40 digits. Required.
    --amount USD      How much, at most six decimals. Required.
    --memo TEXT       For the journal, at most 200 bytes.
    --ref ID          Any ID of your own: the same order with the same ID is
                      executed once.
    --help            Show this text.

EXIT STATUS
    0 done, 1 failed, 2 wrong flags.

EXAMPLES
    x402-facilitator redeem --dir /var/lib/x402-facilitator --from 0x7099… \
        --amount 25.00 --memo "wire of 4 May"
`

const settleHelp = `NAME
    x402-facilitator settle - send the claims that wait on a chain now

SYNOPSIS
    x402-facilitator settle --dir DIR

DESCRIPTION
    Has the facilitator that runs in DIR on a chain (--ledger evm) send all
    claims and settlements that wait to be worth their gas. It answers at once
    and says how many wait; the log says when they are done.

FLAGS
    --dir DIR    Folder of the running facilitator. Required.
    --help       Show this text.

EXIT STATUS
    0 done, 1 failed, 2 wrong flags.

EXAMPLES
    x402-facilitator settle --dir /var/lib/x402-base
`

const auditHelp = `NAME
    x402-facilitator audit - recompute the ledger and compare

SYNOPSIS
    x402-facilitator audit --dir DIR

DESCRIPTION
    Recomputes the whole ledger from its journal, every signature included, and
    compares it with the records: nothing lost, nothing made, nothing changed.

    It works beside a running facilitator and without one. It fails (1) and says
    where on the first difference.

    On a chain, whose books are its own, it compares every transaction that was
    sent with what the chain says; the facilitator must be running for that.

FLAGS
    --dir DIR    Folder of the ledger. Required.
    --help       Show this text.

EXIT STATUS
    0 all agrees, 1 something differs, or failed, 2 wrong flags.

EXAMPLES
    x402-facilitator audit --dir /var/lib/x402-facilitator
`

const versionHelp = `NAME
    x402-facilitator version - print the version

SYNOPSIS
    x402-facilitator version

DESCRIPTION
    Prints the version of the program, of Go, and what it was built for.

FLAGS
    --help    Show this text.

EXIT STATUS
    0 done, 2 wrong flags.

EXAMPLES
    x402-facilitator version
`
