package main

// findHelp are the flags that find agents at relays.
const findHelp = `    --relay NAME            Relay to look at, HOST:PORT#PIN, or HOST:PORT if it
                            has a certificate as web sites have. May be given
                            more than once. Default: the relays named by the
                            variable X402_RELAYS, else by x402 relay add.
    --country CODE          Only SIMs of this country, two letters, such as de.
    --carrier TEXT          Only of this carrier: a part of its name, or its MCC
                            and MNC.
    --tech TEXT             Only of this radio technology, such as LTE or 5G.
    --network NETWORK       Only paid on this network (CAIP-2), such as
                            eip155:8453.
    --evidence carrier      Only agents that relays see in a network of the
                            carrier that their SIM names. A relay that checks no
                            carriers refuses.
`

// reachHelp are the flags of how an agent is reached.
const reachHelp = `    --no-direct             Keep this machine's address from the agent: go by
                            its relays only, which see the address and cannot
                            read what passes.
    --transport NAME        quic, tls or kcp, and no other. Default: QUIC, and
                            TLS while UDP does not get through; what got through
                            is remembered for each network. KCP is for networks
                            that throttle QUIC, with agents that take it.
`

const offersHelp = `NAME
    x402 offers - list the agents that relays know

SYNOPSIS
    x402 offers [--relay NAME] [flags]

DESCRIPTION
    Asks relays for offers and prints them, the cheapest first. An offer is
    signed by its agent; one that is not is skipped and counted. What it says of
    SIM and carrier is the agent's word. EVIDENCE is carrier if the relays see
    the agent come from a network of that carrier, and NETWORK where they see
    it: its autonomous system, by their tables. It need not be where your
    traffic leaves; x402 connect --verify-exit looks. claimed means that nobody
    looked, or that it does not fit, as with a SIM that is roaming or of a
    carrier without a network of its own; --json has the reason. RELAYS is how
    many relays lead to the agent, SEEN when one last heard of it. Of several
    offers of an agent the newest counts. RELAY'S is what a relay asks for a GB
    beside the agent; the column is left out where all are free.

    To buy, name the same conditions to x402 connect, or --agent with what the
    column AGENT shows. A script should name all 40 digits, as --json prints
    them: others may have a key whose address begins alike.

FLAGS
` + findHelp + `    --agent ADDRESS         Only this agent: its address, or at least its first
                            8 digits.
    --max-price USD         Only where a GB costs no more, in either direction,
                            the cheapest relay's price included.
    --limit N               How many to list. Default 20.
    --json                  Print one JSON object: of each offer what the relays
                            say, and as signed the offer, which connect --offer
                            takes. Amounts are in atomic units.
    --state DIR             Folder with the file relays. Default
                            $XDG_STATE_HOME/x402 or ~/.local/state/x402.
    --help                  Show this text.

EXIT STATUS
    0 listed, 1 nothing found or no relay answered, 2 wrong flags.

EXAMPLES
    x402 offers --country de --max-price 4.00
    x402 offers --json | jq '.offers[0].signed' > offer.json
`

const relayHelp = `NAME
    x402 relay - the relays where offers are looked for

SYNOPSIS
    x402 relay add NAME [--state DIR]
    x402 relay list [--state DIR]
    x402 relay remove NAME [--state DIR]

DESCRIPTION
    A relay knows agents and leads to those without a public address. It cannot
    read or alter what passes. Its operator tells its name: HOST:PORT#PIN, where
    PIN says which key it has, or HOST:PORT if it has a certificate as web sites
    have. The names are kept in a file, one a line, which may be edited; lines
    that begin with # are comments. x402 offers and x402 connect look there
    unless --relay or the variable X402_RELAYS names others.

    To add a name replaces what was known at its HOST:PORT. To remove one,
    HOST:PORT is enough.

FLAGS
    --state DIR             Folder with the file relays. Default
                            $XDG_STATE_HOME/x402 or ~/.local/state/x402.
    --help                  Show this text.

EXIT STATUS
    0 done, 1 failed while running, 2 wrong flags.
`
