package main

const modemHelp = `NAME
    x402-agent modem - airplane mode, technologies, bands, restart, signal

SYNOPSIS
    x402-agent modem airplane [on|off|TIME] [flags]
    x402-agent modem mode [any|2g|3g|4g|5g|4g+5g] [flags]
    x402-agent modem bands [BANDS] [flags]
    x402-agent modem reset [flags]
    x402-agent modem signal [flags]

DESCRIPTION
    Goes by the running agent, which has the modem's port. What was to come of a
    command is looked at before it is called done. Without an argument airplane,
    mode and bands say how it is.

    airplane switches the radio off, until "off" or for a time such as 10m.
    Nothing is sold meanwhile: the offer is withdrawn, and buyers are told and
    have a moment to pay, or wait if it is for a minute at most. When the agent
    stops it switches the radio on.

    mode and bands lock the modem to a technology, or to bands of LTE (b) and 5G
    (n), such as "b3 b20 n78". "any" and "all" end the lock. The modem keeps it
    over a restart. Where there is no such network the modem finds none. Which
    modems can what depends on their makers.

    reset restarts the modem by its maker's command and waits until it has read
    its SIM again, three minutes at most.

    signal draws the received power of the last 12 hours, by the minute, and how
    strong each technology was.

    What is being fetched through the line when it leaves its network is cut off;
    buyers stay connected. While another SIM is in the modem that is not sold,
    nothing is changed: see x402-agent sim.
` + controlHelp + `    x402-agent modem airplane 10m
    x402-agent modem mode 4g
    x402-agent modem bands "b3 b20"
`

const smsHelp = `NAME
    x402-agent sms - list, send and delete short messages

SYNOPSIS
    x402-agent sms list [flags]
    x402-agent sms send NUMBER TEXT [flags]
    x402-agent sms delete ID... [flags]

DESCRIPTION
    Goes by the running agent, which has the modem's port.

    list shows what is in the modem's store, the oldest first, and marks it as
    read. delete removes messages by the numbers that list shows, and looks
    whether they are gone.

    send sends TEXT, or the standard input for "-", to a number of digits, with
    "+" before a country's. A long text goes as several messages, eight at most:
    each costs what your carrier asks. None is ever sent twice; when there was no
    answer, it may have been sent or not.

    Texts and numbers are yours: the agent logs and stores neither.
` + controlHelp + `    x402-agent sms list
    x402-agent sms send +4917012345678 "STATUS"
    x402-agent sms delete 3 4
`

const ussdHelp = `NAME
    x402-agent ussd - send a code such as *100#, and show the answer

SYNOPSIS
    x402-agent ussd CODE [flags]
    x402-agent ussd --cancel [flags]

DESCRIPTION
    Goes by the running agent, which has the modem's port. Sends a code and waits
    for what the network says, a minute at most. Where that is a menu, the answer
    to it is another CODE, such as 1.

    Code and answer are yours: the agent logs and stores neither.

FLAGS
    --cancel          End a menu that waits for an answer.
` + socketFlags + answerFlags + `    x402-agent ussd '*100#'
`
