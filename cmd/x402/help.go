package main

const rootHelp = `NAME
    x402 - buy mobile traffic and pay for it as it is counted

SYNOPSIS
    x402 COMMAND [flags]

DESCRIPTION
    An agent is a machine with a SIM card that sells its connection. x402 opens
    a tunnel to one, offers it to the programs on this machine as a SOCKS5 and
    an HTTP proxy, counts what comes out of it and pays for that, in small
    signed vouchers, with the money of a wallet. It never pays more than a
    budget, nor more than what it counted itself plus a small credit.

COMMANDS
    connect     buy from an agent
    rotate      have the agent that is bought from change its public address
    offers      list the agents that relays know
    relay       the relays where they are looked for
    token       buy bytes for a program that speaks to agents by itself
    pay         fetch something on the web that is paid for by x402
    wallet      the key that pays: make it, look at it, get deposits back
    receipts    what agents have signed for: export it, check it
    demo        the whole story on this machine: sell, buy, crash, settle, refund
    modemsim    play a modem with a SIM card, to try an agent without one
    version     print the version
    help        explain a command: x402 help connect, x402 help wallet show

FILES
    $XDG_CONFIG_HOME/x402/               by default in ~/.config:
        wallet.json                      wallet
        facilitators                     who keeps its money, for wallet show
    $XDG_STATE_HOME/x402/                state, by default in ~/.local/state:
        channels.db                      what was signed; losing it costs no money
        receipts                         what agents have signed for
        history                          what became of deposits, for wallet show
        offers/                          what each channel was opened for
        resources/                       what was paid for by x402 pay
        known_agents                     which agent answered where
        relays                           where offers are looked for
        networks                         which transport got through where
        tickets/                         what lets connect come back at once; secret
        control.sock                     how rotate reaches a connect that runs

EXIT STATUS
    0 done, 1 failed while running, 2 wrong flags.

EXAMPLES
    A trial on one machine, where "x402-facilitator run --dev" and an agent are
    running; the agent's price is that of the agent.toml that came with it:

    x402 wallet new
    x402 wallet fund --facilitator http://127.0.0.1:8402 --dev 5.00
    x402 connect --agent 127.0.0.1:4402 --budget 2.00 --max-price 4.00
    curl --proxy socks5h://127.0.0.1:1080 https://example.com/

    Whoever is cheapest in a country, of the agents that a relay knows:

    x402 relay add relay.example:4433#PIN
    x402 connect --country de --budget 2.00 --max-price 4.00
`

const connectHelp = `NAME
    x402 connect - buy from an agent, and offer its connection as a proxy

SYNOPSIS
    x402 connect --agent HOST:PORT --budget USD --max-price USD [flags]
    x402 connect --offer FILE --budget USD --max-price USD [flags]
    x402 connect [--relay NAME] [--country CODE] --budget USD --max-price USD
        [flags]

DESCRIPTION
    Fetches the agent's offer, says what it costs, moves a deposit from the
    wallet into a payment channel with this agent, and opens a tunnel. Programs
    use it through the two proxies; names are resolved at the agent's end. While
    traffic flows, vouchers pay for what was counted here.

    It ends when it is interrupted, or when the budget is used up: connections
    are closed, what is owed is paid, the agent claims it and refunds the rest of
    the deposit. A second interrupt kills; what was deposited is safe then too:
    x402 wallet refund gets it back. If the agent is gone at the end, it is
    looked for, for half a minute; then the withdrawal of the rest is begun,
    which takes as long as was said at the start, a day or more: x402 wallet
    withdraw. An agent that stops is paid before it is left, and used again when
    it is back.

    The agent is known by the address of its key. The first time that one
    answers at HOST:PORT its address is noted, and from then on no other is
    accepted there, as ssh does with hosts. An agent that a relay lists has
    signed its offer with that key: the relay can hide agents, but not be one,
    nor read what passes.

    Without --agent HOST:PORT and --offer, relays are asked for agents, and the
    cheapest is taken that answers within a few seconds; one that does not is
    passed over. Only agents are taken whose deposits are kept by a facilitator
    that the wallet was used with, as x402 wallet fund --facilitator does.

    An agent is reached by QUIC, directly or through a relay, and by TLS where
    UDP is blocked. Through a relay the two ends look for the direct path and
    change to it, back, or to another relay without breaking connections. A relay
    may charge for what it passes on: that is shown, and paid from the same
    budget by a deposit of its own, which comes back like the agent's. The direct
    path costs nothing. With --keep, or after a crash, the next run on the same
    channel needs one round trip to the first byte instead of two, where QUIC got
    through before.

    On a terminal two lines show how things stand: state, rate, bytes of the
    channel and the way to the agent, what is spent and left of the budget, and
    what the agent said last.
    Elsewhere a line is printed every 5 seconds and when something changes.

FLAGS
    --agent HOST:PORT       Agent to buy from, as its owner told you; or the
                            address of one that relays know, see x402 offers.
    --offer FILE            Its signed offer, instead of fetching it. The file
                            says which agent is meant.
    --agent-key ADDRESS     Address that the agent must have, 0x and 40 digits.
                            With --agent it replaces the one that was noted.
` + findHelp + reachHelp + `    --budget USD            The most that this run may cost. Required.
    --max-price USD         The most that a GB may cost in either direction, what
                            a relay asks beside the agent included. Required.
    --deposit USD           How much to put into the channel at a time, at least
                            what the agent asks for. Default 0.25.
    --rotate-every TIME     Ask the agent for another public address so often,
                            such as 30m. What is under way then is cut off; you
                            stay connected. It is paid for once the address has
                            changed. Default: never.
    --rotate-price USD      The most that one may cost.
    --keep                  Leave what is left in the channel for the next run,
                            which saves the deposit's round trip.
    --socks ADDR            Where to offer SOCKS5 (CONNECT and UDP ASSOCIATE),
                            host:port; port 0 takes a free one, "" leaves it
                            out. Default 127.0.0.1:1080.
    --http ADDR             Where to offer an HTTP proxy (CONNECT and plain),
                            likewise. Default 127.0.0.1:8080.
    --user NAME             User that programs must name to the proxies.
    --password-file FILE    File with the password of --user. Both are required
                            if others can reach the proxies.
    --verify-exit           Ask a relay of yours, through the tunnel, where the
                            traffic leaves, and show it: its address, and with a
                            table of networks whose it is and whether it is the
                            carrier's that the SIM names. It costs about 4 kB
                            of traffic.
    --networks FILE         The table: a file of ip2asn-v4.tsv's kind
                            (iptoasn.com), packed by gzip or not, or a CSV file
                            of ip-location-db. May be given more than once.
                            Default: the files ip2asn* in the folder of --state.
    --strict                Wait for the agent's answer before a program is told
                            that it is connected: a round trip slower, but it
                            learns why a connection failed.
    --wallet FILE           The wallet. Default: see FILES.
    --passphrase-file FILE  File with its passphrase. Default: the variable
                            X402_PASSPHRASE, or a question on the terminal.
    --state DIR             Folder for channels, offers and known agents; one
                            x402 at a time uses it. Default: see FILES.
    --timeout TIME          How long to look for an agent that answers. Default
                            10s.
    --json                  Print one JSON object a second instead, amounts in
                            atomic units, and last {"result": …}. Text for
                            people goes to the standard error.
    --ready-file FILE       File to write when connected, with the proxies'
                            addresses, the agent and the channel as JSON. It is
                            removed at the end.
    --log-level LEVEL       Print a log of at least debug, info, warn or error.
                            Default: what goes wrong, as sentences.
    --help                  Show this text.

FILES
    $XDG_CONFIG_HOME/x402/wallet.json    wallet, by default in ~/.config
    $XDG_STATE_HOME/x402/                state, by default in ~/.local/state

EXIT STATUS
    0 ended in order, interrupted or at the end of the budget; 1 failed while
    running; 2 wrong flags.

EXAMPLES
    x402 connect --agent 127.0.0.1:4402 --budget 2.00 --max-price 4.00
    x402 connect --offer offer.json --budget 0.10 --max-price 4.00 --socks "" \
        --http 127.0.0.1:0 --ready-file /tmp/ready --json
    x402 connect --country de --tech 5g --no-direct --budget 1 --max-price 4
`
