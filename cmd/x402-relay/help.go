package main

const rootHelp = `NAME
    x402-relay - make agents behind carrier NAT known and reachable

SYNOPSIS
    x402-relay COMMAND [flags]

DESCRIPTION
    An agent that sells the traffic of a SIM card mostly has no public address.
    It keeps a connection to a relay, which lists its signed offer. A buyer
    lists offers, chooses one, and is given a port of the relay; what it sends
    there goes to the agent unchanged, and back. Buyer and agent encrypt from
    end to end: the relay holds no keys, and can neither read, alter nor replay
    what passes. It takes no part in the payments.

    Anyone may run a relay, and agents and buyers may use several. It stores
    nothing but its own key. It needs a public address, the same port for UDP
    and TCP, and UDP ports for sessions.

COMMANDS
    run         serve agents and buyers
    check       look at the config file, and print the relay's name
    version     print the version, like --version
    help        explain a command: x402-relay help run

FILES
    /etc/x402/relay.toml    the config; the relay.toml that came with the
                            program explains every key
    relay.key               the relay's identity, beside the config unless it
                            says otherwise; made at the first start: back it up

EXIT STATUS
    0 done, 1 failed while running, 2 wrong flags or config.

EXAMPLES
    x402-relay check --config relay.toml
    x402-relay run --config relay.toml
`

const runHelp = `NAME
    x402-relay run - serve agents and buyers

SYNOPSIS
    x402-relay run [flags]

DESCRIPTION
    Serves until SIGINT or SIGTERM. Then it takes no new sessions, tells the
    agents to go to other relays, lets sessions go on for the time that "drain"
    in the config allows, and ends. A second signal kills it. Agents come back
    by themselves within seconds of a restart.

    "relay HOST:PORT#PIN" is printed on the standard output once it serves.
    That is the relay's name, which agents put into their config. The pin is
    the hash of the relay's key: with it no other machine can pass for this
    one. A relay with a certificate of its own (cert_file) has no pin in its
    name. Everything else is logged on the standard error.

    On TCP it speaks HTTPS: GET /v1/offers, POST /v1/sessions, GET
    /discovery/resources (the x402 standard's list), GET /healthz (200 or 503).

FLAGS
    --config FILE        What to serve, and the limits.
                         Default /etc/x402/relay.toml.
    --ready-file FILE    File that is there while the relay serves: JSON with
                         "relay", its name; "metrics", the address for
                         Prometheus; "pid".
    --help               Show this text.

EXIT STATUS
    0 stopped by a signal, 1 failed, 2 wrong flags or config.

EXAMPLES
    x402-relay run --config relay.toml
`

const checkHelp = `NAME
    x402-relay check - look at the config file, and print the relay's name

SYNOPSIS
    x402-relay check [flags]

DESCRIPTION
    Checks the config file, the key, the addresses and the limits, and prints
    the relay's name. It opens no port and makes no key.

    Each line is "ok", "warning" (the relay runs all the same) or "failed".

FLAGS
    --config FILE    The config file. Default /etc/x402/relay.toml.
    --help           Show this text.

EXIT STATUS
    0 nothing failed, 1 something failed, 2 wrong flags or config.

EXAMPLES
    x402-relay check --config relay.toml
`

const versionHelp = `NAME
    x402-relay version - print the version

SYNOPSIS
    x402-relay version

DESCRIPTION
    Prints the version of the program, of Go, and the platform.

FLAGS
    --help    Show this text.

EXIT STATUS
    0 done, 2 wrong flags.

EXAMPLES
    x402-relay version
`
