package main

const rootHelp = `NAME
    x402-agent - sell traffic over this device's SIM

SYNOPSIS
    x402-agent COMMAND [flags]

DESCRIPTION
    The agent reads the SIM in a modem, offers its traffic at your price, relays
    for buyers, counts what passes and is paid for it by the second, through
    payment channels (x402). What it earns goes to an address of yours; the
    device holds no funds. The SIM's number never leaves it.

    "run" is the agent. The other commands talk to the one that runs, over its
    control socket, except "check" and "modems", which also work without one.

COMMANDS
    run         sell until told to stop
    check       look whether all is well, without selling
    modems      list the modems of this machine and their ports
    status      show how the agent is
    sessions    show who is buying
    earnings    show what every buyer has brought
    receipts    export what was sold, signed by the agent
    plan        show the SIM's data plan, or say what is used of it
    settle      claim what buyers paid, now
    sim         show the SIMs that were in the modem, and sell the one that is
    rotate      have the line's public address changed
    modem       airplane mode, technologies, bands, restart, signal
    sms         list, send and delete short messages
    ussd        send a code such as *100#, and show the answer
    purge       remove keys and vouchers, for good
    version     print the version, like --version
    help        explain a command: x402-agent help run

FILES
    /etc/x402/agent.toml      what to sell and how; the agent.toml that came with
                              the program explains every key
    STATE_DIR/device.key      the agent's identity, made at the first start: back
                              it up, show it to nobody; the keys of several SIMs
                              derive from it
    STATE_DIR/tunnel.key      key of the tunnel, replaced if it is lost
    STATE_DIR/channels/       vouchers: what buyers have signed and you can claim
    STATE_DIR/receipts        the newest receipts of what was sold, and before
                              them receipts.old: at least 320, in 256 KiB
    STATE_DIR/plan            what is used of the plans of the SIMs that were in
                              the modem
    STATE_DIR/sims.json       the SIMs that were in the modem, without their
                              numbers, and which of them you sell
    STATE_DIR/links.json      which rotation links are good, without the links
    STATE_DIR/offer.json      the signed offer, for buyers
    STATE_DIR/sims/NAME/      the same of one of several SIMs
    STATE_DIR/control.sock    for the commands above; its owner commands the
                              agent

EXIT STATUS
    0 done, 1 failed while running, 2 wrong flags or config.

EXAMPLES
    x402-agent check --config agent.toml
    x402-agent run --config agent.toml
    x402-agent status --config agent.toml
`

const runHelp = `NAME
    x402-agent run - sell until told to stop

SYNOPSIS
    x402-agent run [flags]

DESCRIPTION
    Sells until SIGINT or SIGTERM. Then it takes no new buyers, lets those it has
    finish for up to 10 seconds, claims what they paid, and ends. A second signal
    kills it; SIGKILL or a power cut at any instant lose no voucher.

    A modem or facilitator that is gone is looked for again, for ever: the agent
    goes on by itself when it is back.

    It logs on the standard error, as [log] in the config file says.

FLAGS
    --config FILE        What to sell and how. Default /etc/x402/agent.toml.
    --ready-file FILE    File to write when buyers are served, the SIM being
                         read; removed at the end. It is JSON: "agent", its
                         address; "listen", the UDP address; "offer" and
                         "control", paths of the signed offer and of the control
                         socket; "pid". Of several SIMs the first one that sells,
                         and in "sims" each with its "name".
    --help               Show this text.

FILES
    As x402-agent help lists them.

ENVIRONMENT
    GOMEMLIMIT, GOGC     Limits of memory use. Default: a quarter of the device's
                         memory, at least 24 and at most 256 MiB; and 50.

EXIT STATUS
    0 stopped by a signal, 1 failed, 2 wrong flags or config.

EXAMPLES
    x402-agent run --config /etc/x402/agent.toml
`

const checkHelp = `NAME
    x402-agent check - look whether all is well, without selling

SYNOPSIS
    x402-agent check [flags]

DESCRIPTION
    Checks the config file, state directory and keys, clock, data plan, UDP port,
    modem, SIM and network, DNS, the facilitator and what it settles in, and your
    account there. It changes nothing and sends no PIN; an agent that runs is not
    disturbed. Run it as the agent's user.

    Each line is "ok", "warning" (the agent sells all the same) or "failed",
    followed by what to do. If the file does not say yet which asset on which
    network you accept, it shows what the facilitator offers, ready to paste.

FLAGS
    --config FILE    File to check. Default /etc/x402/agent.toml.
    --json           Print JSON.
    --offline        Only look at the file, state directory, keys and clock.
    --help           Show this text.

EXIT STATUS
    0 nothing failed, 1 something failed, 2 wrong flags.

EXAMPLES
    x402-agent check --config /etc/x402/agent.toml
`

const modemsHelp = `NAME
    x402-agent modems - list the modems of this machine and their ports

SYNOPSIS
    x402-agent modems [flags]

DESCRIPTION
    Finds modems by what the kernel knows of them and asks each on its AT ports
    for its number (IMEI), which names it wherever it is plugged in. The port
    shown is the one for modem.port in the config file.

    Only devices of makers of modems are asked, each port for 3 seconds at most,
    and no port that another program has open, a running agent included. A modem
    that ModemManager has is asked for over D-Bus; builds for routers cannot.
    Run it as root, or the programs that have ports are not all seen.

FLAGS
    --json           Print JSON.
    --help           Show this text.

EXIT STATUS
    0 listed, also if there is none; 1 failed, 2 wrong flags.

EXAMPLES
    x402-agent modems
`

const controlHelp = `
FLAGS
` + socketFlags + answerFlags

// What the commands that talk to an agent have in common.
const (
	socketFlags = `    --config FILE     File of the running agent, which names its control socket.
                      Default /etc/x402/agent.toml.
    --control FILE    The control socket, instead of --config.
`
	answerFlags = resultFlags + lastFlag
	resultFlags = jsonFlag + simFlag
	jsonFlag    = `    --json            Print JSON: amounts in atomic units (1 USD is 1000000),
                      sizes in bytes and times in seconds.
`
	simFlag = `    --sim NAME        Only this SIM, of several in one agent.
`
	lastFlag = `    --help            Show this text.

FILES
    Only the agent's user, and root, may use the control socket.

EXIT STATUS
    0 done, 1 failed, such as when no agent runs, 2 wrong flags or config.

EXAMPLES
`
)

const statusHelp = `NAME
    x402-agent status - show how the agent is

SYNOPSIS
    x402-agent status [flags]

DESCRIPTION
    Shows whether the agent sells, and if something is wrong, what, and what to
    do first; modem, SIM and signal; the data plan; price and earnings; and who
    is buying. Of what is earned and not claimed, what is watched is claimed by
    the facilitator or a relay when its payer takes his deposit back while the
    agent is off.
` + controlHelp + `    x402-agent status
    x402-agent status --json
`

const sessionsHelp = `NAME
    x402-agent sessions - show who is buying

SYNOPSIS
    x402-agent sessions [flags]

DESCRIPTION
    Shows the sessions: what each buyer sent (up) and received (down), owes and
    has paid over all of his sessions, in USD. One who "waits" has used up his
    credit or deposit, and gets more when he has paid.
` + controlHelp + `    x402-agent sessions
`

const earningsHelp = `NAME
    x402-agent earnings - show what every buyer has brought

SYNOPSIS
    x402-agent earnings [flags]

DESCRIPTION
    Shows for each buyer, and in total, what was counted, what is owed for it,
    what he paid by vouchers and what of it was claimed from the facilitator.
    "settle" claims the rest; so does the agent by itself, as [settle] in the
    config file says.
` + controlHelp + `    x402-agent earnings
`

const planHelp = `NAME
    x402-agent plan - show the SIM's data plan, or say what is used of it

SYNOPSIS
    x402-agent plan [flags]
    x402-agent plan set-used [flags] SIZE

DESCRIPTION
    Shows what is used of the plan that [plan] in the config file describes: by
    your household, by sales and by what carrying them costs; what may still be
    sold, today and until the reset; and what your household will need until
    then if it goes on as in the last days.

    "set-used" corrects it: SIZE, such as "12.3 GB", is what the carrier shows as
    used now. It also makes a SIM known that was put in while the agent ran, and
    says that the device's clock is right if NTP does not.
` + controlHelp + `    x402-agent plan
    x402-agent plan set-used "12.3 GB"
`

const settleHelp = `NAME
    x402-agent settle - claim what buyers paid, now

SYNOPSIS
    x402-agent settle [flags]

DESCRIPTION
    Has the agent claim what its vouchers are worth, and move all that was
    claimed to your address. It waits for the facilitator's answer. After a
    failure nothing is lost: the agent tries again by itself.
` + controlHelp + `    x402-agent settle
`

const simHelp = `NAME
    x402-agent sim - show the SIMs that were in the modem, and sell a new one

SYNOPSIS
    x402-agent sim [flags]
    x402-agent sim accept [flags]

DESCRIPTION
    The first SIM is sold by itself. When there is another one in the modem, the
    offer is withdrawn, sessions end, and nothing is sold until you say that the
    plan of the new one allows it, by x402-agent sim accept; or the former one is
    back. Each SIM is asked about once. modem.new_sim in the config file may say
    that every SIM is sold.

    With [plan] in the config file a new SIM is sold when it is also known what
    is used of its plan: say so with --used, or by x402-agent plan set-used.

    SIMs are told apart by a fingerprint of their number (IMSI) under this
    device's key. It says nothing to others and does not leave the device.

FLAGS
` + socketFlags + resultFlags + `    --used SIZE       With accept: what the carrier shows as used of the new
                      SIM's plan, such as "12.3 GB".
` + lastFlag + `    x402-agent sim
    x402-agent sim accept --used "0 GB"
`

const rotateHelp = `NAME
    x402-agent rotate - have the line's public address changed

SYNOPSIS
    x402-agent rotate [flags]
    x402-agent rotate --link [--expires TIME] [--uses N] [flags]
    x402-agent rotate --links | --revoke ID|all [flags]

DESCRIPTION
    Takes the modem off its network for a moment, so that the carrier gives it
    another address, and looks from outside whether it did: a relay says so, or
    the echo of [rotate] in the config file. If not, it tries again, off for
    longer. Prints the old address and the new one.

    Buyers stay connected, on the same session and channel: what they open
    meanwhile waits, what they were fetching is cut off when the address has
    changed.

    With --link it prints a link for each of your relays. Who opens it sees a
    button that does the same; curl -X POST answers in JSON. Give it only to
    whom you trust with that: it needs no password, and the relay sees it when
    it is used. It is good for a time and a number of uses, no more than one in
    the time that rotate.between says, and until you revoke it.

FLAGS
` + socketFlags + `    --expires TIME    How long the link is good, such as 12h. Default: 30d.
    --hold TIME       How long to be off the network. Default: as in the config.
` + jsonFlag + `    --link            Make a link.
    --links           List the links that are good.
    --revoke ID       End the link that --links names so, or all.
` + simFlag + `    --uses N          How often the link may be used. Default: 100.
` + lastFlag + `    x402-agent rotate
    x402-agent rotate --hold 10s --sim two
    x402-agent rotate --link --expires 7d --uses 20
`

const purgeHelp = `NAME
    x402-agent purge - remove keys and vouchers, for good

SYNOPSIS
    x402-agent purge [flags]

DESCRIPTION
    Removes what the agent has stored in its state directory: the vouchers, the
    totals and the device key. The agent must be stopped. Money that buyers paid
    and you have not claimed would be lost with them, so then it refuses: start
    the agent again and run "x402-agent settle". Your config file stays.

FLAGS
    --config FILE       File that names the state directory. Default
                        /etc/x402/agent.toml.
    --lose-unclaimed    Remove all the same. What is not claimed is lost.
    --help              Show this text.

EXIT STATUS
    0 removed, 1 refused or failed, 2 wrong flags or config.

EXAMPLES
    x402-agent purge
`

const versionHelp = `NAME
    x402-agent version - print the version

SYNOPSIS
    x402-agent version [flags]

DESCRIPTION
    Prints the version of the program, of Go, and what it was built for.

FLAGS
    --json    Print JSON.
    --help    Show this text.

EXIT STATUS
    0 done, 2 wrong flags.

EXAMPLES
    x402-agent version --json
`
