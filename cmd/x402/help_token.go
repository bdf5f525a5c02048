package main

const tokenHelp = `NAME
    x402 token - buy bytes for a program that speaks to agents by itself

SYNOPSIS
    x402 token --agent HOST:PORT --bytes SIZE --max-price USD [flags]
    x402 token --offer FILE --bytes SIZE --max-price USD [flags]
    x402 token --port TOKEN|CHANNEL [flags]
    x402 token --close TOKEN|CHANNEL [flags]

DESCRIPTION
    An agent is an HTTP/3 proxy: any client of CONNECT, and of CONNECT-UDP
    (MASQUE, RFC 9298), can use it. Such clients cannot pay as they go. They show
    a token instead, as the password of the proxy: it is good for a number of
    bytes, which are paid in advance.

    A token has a payment channel of its own. Its deposit is the price of the
    bytes in the dearer direction, or the least that the agent takes. While
    x402 connect pays by what is counted here, a token is billed by what the
    agent counts: TCP by its bytes, UDP by its payload and 28 a packet, up and
    down together. You trust the agent with the price of the bytes that you name
    and with nothing more.

    The agent ends the token when it is used up, when it was not used for as
    long as is printed, or when it is told to with --close, which x402 wallet
    refund does for all channels. It claims what was used and refunds the rest,
    like at the end of x402 connect. Whoever has the
    token can use its bytes, from anywhere and on any number of connections, and
    can do nothing else. Keep it like a password.

    The client reaches the agent at the address that is printed. For an agent
    without an address of its own that is a port of a relay, which passes on what
    it cannot read. It belongs to the first client that comes within the time
    that is printed, for as long as that stays; --port asks for another. The
    agent's certificate names nobody: its key is what counts, whose SHA-256 is
    printed in the form that curl and others take.

FLAGS
    --agent HOST:PORT       Agent to buy from, as its owner told you; or the
                            address of one that relays know, see x402 offers.
    --offer FILE            Its signed offer, instead of fetching it.
    --agent-key ADDRESS     Address that the agent must have, 0x and 40 digits.
                            With --agent it replaces the one that was noted.
` + findHelp + reachHelp + `    --bytes SIZE            How many bytes: 1MB, 500MB, 20G. k, M and G are
                            powers of 1000. Required to buy.
    --max-price USD         The most that a GB may cost in either direction.
                            Required to buy.
    --port TOKEN|CHANNEL    Print where a client of this token reaches its agent,
                            after asking a relay for a port if it takes one.
    --close TOKEN|CHANNEL   End this token, and get back what is left. The
                            channel may be named by the beginning of its id.
    --timeout TIME          How long to look for an agent that answers. Default
                            10s.
    --json                  Print one JSON object, amounts in atomic units.
    --log-level LEVEL       Print a log of at least debug, info, warn or error.
                            Default: what goes wrong, as sentences.
` + placesHelp + passphraseHelp + stateHelp + `    --help                  Show this text.

EXIT STATUS
    0 done, 1 failed while running, 2 wrong flags.

EXAMPLES
    x402 token --agent 127.0.0.1:4402 --bytes 500MB --max-price 4.00
    x402 token --close 0x12ab34cd

    With a curl of at least 8.21 that was built with ngtcp2:

    curl --proxy-http3 --proxy https://127.0.0.1:4402 --proxy-user x402:TOKEN \
        --proxy-insecure --proxy-pinnedpubkey sha256//HASH https://example.com/
`
