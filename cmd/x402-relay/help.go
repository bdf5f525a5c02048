package main

const rootHelp = `NAME
    x402-relay - let buyers find and reach agents behind carrier NAT

SYNOPSIS
    x402-relay COMMAND [flags]

DESCRIPTION
    Agents that have no public address keep a connection to relays of their
    choice and publish their offers there. Buyers list the offers, choose, and
    get a pair of ports through which their packets and the agent's pass. What
    passes is encrypted between the two: a relay can neither read nor change it,
    and holds no money. Where both sides can, they leave the relay for the direct
    path.

    A relay keeps nothing but its key. When it is started anew, agents are back
    within seconds. Anybody may run one; an agent may use several.

    A relay may charge buyers for what passes, if the config file has a price.
    They pay by vouchers on a channel with the relay, which it keeps in a
    directory of its own, and claims once a day and at the end. The direct path
    costs nothing.

COMMANDS
    run         run the relay until told to stop
    check       look whether all is well, without running
    name        print the relay's name, for agents' config files
    version     print the version, like --version
    help        explain a command: x402-relay help run

FILES
    /etc/x402/relay.toml    how to run; the relay.toml that came with the program
                            explains every key
    relay.key               the relay's key, beside the config file unless that
                            says otherwise; made on first use. The relay's name
                            ends in its hash, so back it up
    channel.key, channels.db
                            in payment.state_dir, if the relay charges: the key
                            that claims, and the vouchers

EXIT STATUS
    0 done, 1 failed while running, 2 wrong flags or config.

EXAMPLES
    x402-relay check --config relay.toml
    x402-relay name --config relay.toml
    x402-relay run --config relay.toml
`

const runHelp = `NAME
    x402-relay run - run the relay until told to stop

SYNOPSIS
    x402-relay run [flags]

DESCRIPTION
    Runs until SIGINT or SIGTERM. Then it tells the agents, which go elsewhere or
    come back later, takes no new sessions, and lets those that it has go on for
    the time that "drain" in the config file says. A second signal kills it; that
    loses nothing but the sessions.

    "relay NAME" is printed on the standard output once agents and buyers can
    come; everything else is logged on the standard error, as [log] says.

    On the one port are, over UDP: agents' control connections (QUIC); over TCP:
    the same for networks that block UDP, sessions of such buyers, and HTTPS with
    GET /v1/offers, POST /v1/sessions, GET /v1/relay (what the relay charges),
    POST /v1/account (where that is paid), GET /discovery/resources (the offers
    in the x402 standard's format) and GET /healthz. Sessions over UDP have two
    ports of their own each.

FLAGS
    --config FILE        How to run. Default /etc/x402/relay.toml.
    --ready-file FILE    File that is there while the relay runs: JSON with
                         "relay", its name; "metrics", the address for
                         Prometheus; "pid".
    --help               Show this text.

FILES
    As x402-relay help lists them.

EXIT STATUS
    0 stopped by a signal, 1 failed, 2 wrong flags or config.

EXAMPLES
    x402-relay run --config /etc/x402/relay.toml
`

const checkHelp = `NAME
    x402-relay check - look whether all is well, without running

SYNOPSIS
    x402-relay check [flags]

DESCRIPTION
    Checks the config file, the key or certificate, what the public name resolves
    to, whether the port is free, and whether the system lets the relay open as
    many sockets as its limits need; of a relay that charges also its directory,
    the facilitator and the asset. It changes nothing. Run it as the relay's
    user.

    Each line is "ok", "warning" (the relay runs all the same) or "failed",
    followed by what to do. It cannot see whether a firewall lets UDP in.

FLAGS
    --config FILE    File to check. Default /etc/x402/relay.toml.
    --help           Show this text.

EXIT STATUS
    0 nothing failed, 1 something failed, 2 wrong flags.

EXAMPLES
    x402-relay check --config /etc/x402/relay.toml
`

const nameHelp = `NAME
    x402-relay name - print the relay's name, for agents' config files

SYNOPSIS
    x402-relay name [flags]

DESCRIPTION
    Prints what agents put under "relays": HOST:PORT#PIN, where the pin is the
    SHA-256 hash of the relay's public key: no other machine can pass for it. Or
    HOST:PORT, if the config file names a certificate that browsers accept. Makes
    the key if there is none yet, so run it as the relay's user.

FLAGS
    --config FILE    The relay's config. Default /etc/x402/relay.toml.
    --help           Show this text.

EXIT STATUS
    0 done, 1 failed, 2 wrong flags or config.

EXAMPLES
    x402-relay name --config /etc/x402/relay.toml
`

const versionHelp = `NAME
    x402-relay version - print the version

SYNOPSIS
    x402-relay version

DESCRIPTION
    Prints the version of the program, of Go, and what it was built for.

FLAGS
    --help    Show this text.

EXIT STATUS
    0 done, 2 wrong flags.

EXAMPLES
    x402-relay version
`
