package main

const walletHelp = `NAME
    x402 wallet - the key that pays for traffic

SYNOPSIS
    x402 wallet new|import|backup|show|fund|refund|withdraw [flags]

DESCRIPTION
    A wallet is a file with one key, encrypted with a passphrase, in the format
    that other Ethereum wallets read (Web3 Secret Storage, version 3). Its
    account is on the network that an agent is paid on. Deposits in channels are
    the wallet's too: an agent can only take what was signed for it.

COMMANDS
    new         make a wallet
    import      make one of a key that exists
    backup      copy it
    show        all that it has, on all networks, and what became of it
    fund        how to pay money into it
    refund      have agents give deposits back, at once
    withdraw    take deposits back without the agent, after the channel's delay
    help        explain one: x402 wallet help fund

FILES
    $XDG_CONFIG_HOME/x402/wallet.json    wallet, by default in ~/.config
    $XDG_CONFIG_HOME/x402/facilitators   who keeps its money, one URL a line
    $XDG_STATE_HOME/x402/                state, by default in ~/.local/state

EXIT STATUS
    0 done, 1 failed while running, 2 wrong flags.

EXAMPLES
    x402 wallet new
    x402 wallet backup /media/stick/wallet.json
    x402 wallet show
    x402 wallet refund --channel all
`

// placesHelp are the flags that all commands of the wallet have.
const placesHelp = `    --wallet FILE           The wallet. Default wallet.json in
                            $XDG_CONFIG_HOME/x402 or ~/.config/x402.
`

const passphraseHelp = `    --passphrase-file FILE  File with the passphrase. Default: the variable
                            X402_PASSPHRASE, or a question on the terminal.
`

const stateHelp = `    --state DIR             Folder of channels and offers; one x402 at a time
                            uses it. Default $XDG_STATE_HOME/x402 or
                            ~/.local/state/x402.
`

const helpFlagHelp = `    --help                  Show this text.

EXIT STATUS
    0 done, 1 failed while running, 2 wrong flags.
`

const newHelp = `NAME
    x402 wallet new - make a wallet

SYNOPSIS
    x402 wallet new [flags]

DESCRIPTION
    Draws a key and writes it, encrypted, to a new file. Nothing can replace a
    lost file or a forgotten passphrase: make a backup. A file that exists is
    never overwritten. On a terminal the passphrase is asked for twice.

FLAGS
` + placesHelp + passphraseHelp + helpFlagHelp

const importHelp = `NAME
    x402 wallet import - make a wallet of a key that exists

SYNOPSIS
    x402 wallet import --keystore FILE [flags]
    x402 wallet import --hex-file FILE [flags]

DESCRIPTION
    Takes the key of another wallet, or of a backup. A keystore keeps its
    passphrase, which is asked for; a key in clear gets a new one. A wallet that
    exists is never overwritten.

FLAGS
    --keystore FILE         Web3 Secret Storage file, version 3.
    --hex-file FILE         File with the key in clear, 64 hexadecimal digits.
                            Delete it afterwards.
` + placesHelp + passphraseHelp + helpFlagHelp

const backupHelp = `NAME
    x402 wallet backup - copy the wallet

SYNOPSIS
    x402 wallet backup [flags] FILE

DESCRIPTION
    Copies the wallet to a new file, which the same passphrase opens. Keep it
    on another device.

FLAGS
` + placesHelp + helpFlagHelp

const showHelp = `NAME
    x402 wallet show - all that the wallet has, on all networks

SYNOPSIS
    x402 wallet show [flags]

DESCRIPTION
    One account over all networks that the wallet was used on, in one table. On
    each network: what is in its account; what was earned by all agents and
    relays that are paid at its address, and how much of that is not settled to
    the account yet; and its channels with agents, relays and what was paid by
    x402 pay: what was deposited, less what came back; what
    of it is signed away; what the other side has claimed of that; what is in
    escrow still; and what of all that is LEFT to the wallet, in USD and in
    atomic units. Then the sum of the network, and at the end of all.

    The second table is the history of the channels: what was deposited, paid
    (signed), claimed, refunded and withdrawn, and when this computer saw it. It
    is kept from the first use of the state folder by a version that keeps one;
    what was there before has "before" with its time.

    A facilitator that does not answer is shown as unreachable, with what was
    known last of its channels; sums say so then, and the exit status is 0. While
    x402 connect is running that is asked for its channels. While another command
    has them, only that knows what it has signed: the rest is shown, but for
    channels of x402 pay. It needs no passphrase.

FLAGS
    --network NAME          Only this network, such as eip155:8453.
    --history N             At most so many lines of history, the newest.
                            Default 20.
    --facilitator URL       Look there too, and for channels whose offer is not
                            stored.
    --json                  Print one JSON object, amounts in atomic units, with
                            all of the history.
` + placesHelp + stateHelp + helpFlagHelp

const fundHelp = `NAME
    x402 wallet fund - how to pay money into the wallet

SYNOPSIS
    x402 wallet fund [--facilitator URL [--dev USD]] [flags]

DESCRIPTION
    Prints the address to pay to, and how: an agent's offer names a network and
    a facilitator; the money has to be on that network. With --facilitator it
    says which network and asset are meant, and what is there already; wallet
    show looks there from then on.

FLAGS
    --facilitator URL       Facilitator that your agents use.
    --dev USD               Take so much of its development faucet. Such credit
                            is worth nothing outside of a trial.
` + placesHelp + helpFlagHelp

const refundHelp = `NAME
    x402 wallet refund - have agents give deposits back

SYNOPSIS
    x402 wallet refund [--channel ID|all] [flags]

DESCRIPTION
    Connects to the agent of a channel, buys nothing, pays what is owed from
    before, and has the agent claim that and refund the rest, at once. An agent
    that cannot be reached is named; the channel's money can then be taken back
    with x402 wallet withdraw, which takes a day or more. An agent that
    disappears in the middle has the withdrawal begun.

FLAGS
    --channel ID            Channel to close: its id, or the beginning of it as
                            x402 wallet show prints it, or all. Default all.
` + reachHelp + `    --timeout TIME          How long to wait for each agent. Default 10s.
    --log-level LEVEL       debug, info, warn or error. Default error.
` + placesHelp + passphraseHelp + stateHelp + helpFlagHelp

const withdrawHelp = `NAME
    x402 wallet withdraw - take deposits back without the agent

SYNOPSIS
    x402 wallet withdraw [--channel ID|all] [flags]

DESCRIPTION
    Begins the withdrawal of what is left in a channel, or finishes one that is
    due, through the facilitator. Between the two is the channel's delay, a day
    or more, in which the agent can still claim what was signed for it. While a
    withdrawal is under way the agent does not serve this channel. Ask for a
    refund first: it is there at once.

    Without --channel, withdrawals that were begun are finished if they are due.
    To begin one, name the channel: it locks the channel for the delay.

    On an EVM chain the contract takes both steps from the wallet's own account
    only, and the gas is the account's: send the wallet's address a little of
    the chain's coin (a cent's worth on Base). The node named by --rpc is asked
    what a transaction needs, the wallet signs it, and the facilitator sends it.

FLAGS
    --channel ID            Channel to withdraw from: its id, or the beginning
                            of it as x402 wallet show prints it, or all.
    --facilitator URL       Facilitator of channels whose offer is not stored.
    --rpc URL               A node of the chain, JSON-RPC over http or https;
                            @FILE has the URL in a file. Only for an EVM chain.
    --max-gas ETHER         What the gas of one step may cost at most. Default
                            0.005.
` + placesHelp + passphraseHelp + stateHelp + helpFlagHelp
