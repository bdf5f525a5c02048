package main

const payHelp = `NAME
    x402 pay - fetch something that is paid for by x402, and pay for it

SYNOPSIS
    x402 pay --max-price USD [flags] URL

DESCRIPTION
    Fetches a URL. If the server asks for a payment by the x402 standard, version
    2, and it costs no more than --max-price, the wallet pays and the answer is
    written to the standard output; what was paid is said on the standard error.
    Only assets of facilitators that the wallet was used with are paid in.

    A single request is paid by a transfer (scheme exact) if the server takes
    one. Otherwise it is paid from a channel (scheme batch-settlement), into
    which a deposit is made first; what is left of it is asked back at once.
    With --keep it stays there for the next request, until x402 wallet refund.
    A server that has disappeared cannot keep it: x402 wallet withdraw.

FLAGS
    --max-price USD         The most that the request may cost. Required.
    --method METHOD         GET, or POST with --data, unless this says another.
    --data TEXT             Body of the request.
    --header LINE           Field of the request, NAME: VALUE. May be given more
                            than once.
    --output FILE           Where to write the answer, instead of the standard
                            output.
    --scheme NAME           How to pay: exact or batch-settlement. Default: what
                            fits, see above.
    --deposit USD           The most to put into a channel. Default 0.25.
    --keep                  Leave what is left in the channel.
    --facilitator URL       Pay in what this facilitator keeps, too.
    --timeout TIME          How long all may take. Default 1m.
    --json                  Print one JSON object instead, with the answer as
                            "body" unless --output is given; amounts in atomic
                            units.
` + placesHelp + passphraseHelp + stateHelp + `    --help                  Show this text.

EXIT STATUS
    0 done, 1 failed while running, also by a status of 400 and above, 2 wrong
    flags.

EXAMPLES
    x402 pay --max-price 0.01 https://api.example/weather
    x402 pay --max-price 0.01 --json https://api.example/weather | jq .paid
`
