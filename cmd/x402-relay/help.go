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

    A relay may also be a gateway, if the config file names a wallet: it sells
    credit for its own HTTP and SOCKS5 proxies to any x402 client, and buys from
    agents what leaves by them. Its customers trust it: it holds their money
    until they spend it, and sees where they go. See x402-relay help token.

    A relay may keep agents' newest claims, if the config file names
    facilitators under [watch], or has a price or a gateway: while an agent is
    off it asks whether a payer takes his deposit back, and claims for the agent
    in time. It can neither take nor redirect that money.

COMMANDS
    run         run the relay until told to stop
    check       look whether all is well, without running
    name        print the relay's name, for agents' config files
    token       give, list and close credit of a gateway
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
    watch.db                in watch.state_dir, if the relay keeps agents' claims
    credit.db, channels.db, sales.db, offers, gateway.sock
                            in gateway.state_dir, if there is a gateway: what
                            customers have, the channels with agents, those of
                            customers, and the socket of x402-relay token

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
    POST /v1/account (where that is paid), /v1/credit (what a gateway sells),
    GET /discovery/resources (that and the offers, in the x402 standard's format)
    and GET /healthz. Sessions over UDP have two
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
    the facilitator and the asset; of one that keeps agents' claims its directory
    and the facilitators. It changes nothing. Run it as the relay's
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

const tokenHelp = `NAME
    x402-relay token - give, list and close credit of a gateway

SYNOPSIS
    x402-relay token create --usd AMOUNT --max-price USD [flags]
    x402-relay token list [--json]
    x402-relay token close --id ID [--json]

DESCRIPTION
    Credit is what the proxies of a gateway take, by a user and a password. Most
    is bought: POST /v1/credit on the relay's HTTPS name, with JSON such as
    {"bytes":1000000000,"country":"de"}, by an x402 client. With the user and the
    password GET shows it, POST adds to it, PUT with {"allow":[...]} says from
    which addresses it may be used, and DELETE has the rest given back. This
    command is for the operator of a gateway that runs, on its machine.

    create gives somebody credit at the gateway's cost; what is left of that is
    given back to nobody. The password is shown once. list shows all credit;
    "unpaid" is a sale whose payment failed, or was made and not answered. close
    ends one, and gives what is left back to who bought it.

    Behind the token, the user name says where to leave, for each connection:
    TOKEN-country-de-carrier-telekom-tech-5g-session-a1-rotate-10. Connections of
    one session leave by one exit, for as many minutes as rotate says or as long
    as the session is used; without a session each leaves by an exit of its own.

FLAGS
    --config FILE      File that the relay runs by. Default /etc/x402/relay.toml.
    --usd AMOUNT       How much credit, such as 5.00.
    --max-price USD    The most that a GB of it may cost, the gateway's fee
                       included. Exits that are dearer are not used.
    --life TIME        How long it is good. Default 720h.
    --allow A,B        Addresses and networks that may use it. Default: all.
    --country CC       Where it leaves if the user name does not say, such as de.
    --carrier TEXT     Likewise: part of the operator's name, or MCC and MNC.
    --tech TEXT        Likewise: the technology, such as 5g.
    --memo TEXT        For whom it is; list shows it.
    --id ID            Which credit, as list shows it.
    --json             Print JSON.
    --help             Show this text.

EXIT STATUS
    0 done, 1 failed, 2 wrong flags or config.

EXAMPLES
    x402-relay token create --usd 5.00 --max-price 6.00 --memo "a friend"
    x402-relay token list
`
