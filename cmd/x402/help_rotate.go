package main

const rotateHelp = `NAME
    x402 rotate - have the agent of a running purchase change its address

SYNOPSIS
    x402 rotate [--yes] [flags]

DESCRIPTION
    Asks the x402 connect that runs on the state folder to have its agent's
    carrier give it another public address, and prints the old one and the new
    one. The agent names a price, which you are asked to agree to. It is part of
    the run's budget, and is charged when the address has changed, and not
    otherwise. What is being fetched then is cut off; the session goes on.

    An agent that names no price changes its address for its owner only. It
    takes seconds to minutes, since the agent looks whether it came about.

FLAGS
    --yes                   Agree to what the agent asks.
    --price USD             Agree to no more than this, instead of being asked.
    --json                  Print one JSON object: "changed", "old", "new" and
                            "price", what was charged in atomic units; "error"
                            if it was not changed.
    --state DIR             State folder of the purchase. Default:
                            ~/.local/state/x402.
    --help                  Show this text.

EXIT STATUS
    0 the address has changed, 1 it has not, 2 wrong flags, or no agreement.

FILES
    STATE/control.sock      How to reach the purchase; only its user may.

EXAMPLES
    x402 rotate --yes
    x402 rotate --price 0.02 --json
`
