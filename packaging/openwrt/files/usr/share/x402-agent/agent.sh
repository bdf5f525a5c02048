# What the service of x402-agent does: /etc/init.d/x402-agent, the scripts of
# /etc/hotplug.d and those of the package read it. It only defines functions.
#
# The settings are those of /etc/config/x402. They are written as agent.toml into
# /var/run at each start. A value comes from a web page or a person: it goes into
# the file as one quoted text, a number or true or false, and never into a
# command. What is wrong is said in the log by the option's name, without the
# value, which may be a PIN.
#
# shellcheck shell=sh disable=SC3043,SC2317,SC2034 # ash has local; config_load calls back; the init script reads

X402_PROGRAM=/usr/bin/x402-agent
X402_USER=x402
X402_KEPT=/etc/x402
X402_STATE=$X402_KEPT/state
X402_RUN=/var/run/x402-agent
X402_CONFIG=$X402_RUN/agent.toml
X402_PID=$X402_RUN/agent.pid
X402_ROOM="OpenWrt mounts full flash read-only: remove a package or some files, then restart the router"

# x402_say PRIORITY TEXT writes to the log, and to who asked.
x402_say() {
	logger -s -t x402-agent -p "daemon.$1" "$2"
}

# x402_id FILE FIELD prints a number of the user's or group's line.
x402_id() {
	sed -n "s/^$X402_USER:[^:]*:\\([0-9]*\\):\\([0-9]*\\).*/\\$2/p" "$1" 2>/dev/null
}

# x402_user makes sure that the user is there. The package manager adds it, but a
# restored backup may lack it, and procd runs as root what has an unknown user.
x402_user() {
	local gid
	command -v user_exists >/dev/null || . /lib/functions.sh
	if ! user_exists "$X402_USER"; then
		gid="$(group_add_next "$X402_USER")"
		user_add "$X402_USER" "" "$gid"
	fi
	group_exists dialout || group_add_next dialout >/dev/null
	group_add_user dialout "$X402_USER"
	[ -n "$(x402_id /etc/passwd 2)" ]
}

# x402_own FILE... gives files to the user, as after a restored backup. A file
# with a second name may be somebody else's.
x402_own() {
	local f ids
	ids="$(x402_id /etc/passwd 1):$(x402_id /etc/passwd 2)"
	for f in "$@"; do
		[ -f "$f" ] || [ -d "$f" ] || continue
		[ ! -L "$f" ] || continue
		# shellcheck disable=SC2046 # fields of ls: mode, links, user, group
		set -- $(ls -nd "$f")
		[ "$3:$4" = "$ids" ] || { [ -f "$f" ] && [ "$2" != 1 ]; } || chown -h "$ids" "$f"
	done
}

# x402_prepare makes the user and the directories. It may be cut off anywhere and
# done again.
x402_prepare() {
	x402_user 2>/dev/null || {
		x402_say err "the user $X402_USER cannot be made: the flash is read-only or full. $X402_ROOM"
		return 1
	}
	if ! mkdir -p "$X402_RUN/control" 2>/dev/null; then
		x402_say err "$X402_RUN cannot be made: the memory is full. Restart the router"
		return 1
	fi
	chown "0:$(x402_id /etc/passwd 2)" "$X402_RUN"
	chmod 0750 "$X402_RUN"
	x402_own "$X402_RUN/control"
	chmod 0700 "$X402_RUN/control"
	[ -d "$X402_STATE" ] || (umask 022 && mkdir -p "$X402_KEPT" && umask 077 && mkdir -p "$X402_STATE") 2>/dev/null || {
		x402_say err "$X402_STATE cannot be made: the flash is read-only or full. $X402_ROOM"
		return 1
	}
	x402_own "$X402_STATE" "$X402_STATE"/* "$X402_STATE"/.[!.]* "$X402_STATE"/*/* "$X402_STATE"/*/*/* "$X402_STATE"/*/*/*/*
	# So that x402-agent finds its socket without being told where.
	[ -L "$X402_KEPT/agent.toml" ] || [ -e "$X402_KEPT/agent.toml" ] || ln -s "$X402_CONFIG" "$X402_KEPT/agent.toml" 2>/dev/null
	return 0
}

# x402_grant DEVICE lets the user open a modem's port, and have the kernel drop
# and take the modem, which brings a stuck one back.
x402_grant() {
	local dir
	case "${1##*/}" in
	ttyUSB[0-9]* | ttyACM[0-9]* | wwan[0-9]*at[0-9]*) ;;
	*) return 0 ;;
	esac
	[ -c "$1" ] || return 0
	chgrp dialout "$1" && chmod g+rw "$1"
	dir="$(readlink -f "/sys/class/tty/${1##*/}/device" 2>/dev/null)"
	while [ -n "$dir" ]; do
		if [ -e "$dir/authorized" ] && [ -e "$dir/idVendor" ]; then
			chgrp dialout "$dir/authorized" && chmod g+w "$dir/authorized"
			break
		fi
		dir="${dir%/*}"
	done
	return 0
}

# The settings, read by config_load's callbacks into:
#
#	x402_top, x402_body  the keys of no table, and the tables
#	x402_faults          what is wrong, one a line
#	x402_type, x402_name the section that is read, and whether its table is begun
#	x402_list            a list that is read, and its key
#	x402_pins            files that the agent reads a PIN from

# x402_fault OPTION TEXT notes what is wrong.
x402_fault() {
	x402_faults="${x402_faults}x402.$x402_name${1:+.$1}: $2
"
}

# x402_kind TABLE.KEY says how a key is written: text, number, bool or list.
x402_kind() {
	case "$1" in
	agent.endpoints | agent.relays | policy.allow_networks | policy.deny_networks | policy.allow_tcp | policy.deny_tcp | \
		policy.allow_udp | policy.deny_udp | plan.schedule | plan.price_steps | recovery.power_command) x402_as=list ;;
	agent.kcp | agent.bind_tunnel | plan.roaming | recovery.enabled | recovery.gpio_active_low) x402_as=bool ;;
	modem.baud | credit.loss_percent | limits.sessions | limits.flows | limits.mbits | plan.reset_day | plan.reset_hour | \
		plan.mbits | plan.margin_percent | rotate.tries | recovery.gpio_line) x402_as=number ;;
	agent.listen | agent.listen_tcp | modem.port | modem.imei | modem.pin | modem.pin_file | modem.new_sim | \
		price.per_gb | price.up | price.down | payment.facilitator | payment.network | payment.asset | payment.asset_name | \
		payment.asset_version | payment.pay_to | payment.withdraw_delay | payment.min_deposit | credit.cap | credit.total | \
		policy.interface | plan.interface | plan.size | plan.timezone | plan.used | plan.used_on | plan.reserve | plan.daily | plan.hourly | \
		rotate.every | rotate.hold | rotate.echo | rotate.price | rotate.between | recovery.power_file | recovery.gpio_chip | \
		recovery.power_off | settle.every | settle.at) x402_as=text ;;
	*) return 1 ;;
	esac
}

# x402_find OPTION sets x402_key and x402_as for an option of the section.
x402_find() {
	x402_key="$1"
	case "$x402_type.$1" in
	agent.enabled | agent.consent | agent.jail) x402_as=switch ;;
	agent.memlimit | agent.gc) x402_as=count ;;
	agent.log_level) x402_as=level ;;
	sim.name) x402_as=text ;;
	sim.listen | sim.endpoints | sim.bind_tunnel) x402_kind "agent.$1" ;;
	sim.limits_mbits | sim.policy_interface | sim.modem_* | sim.price_* | sim.plan_* | sim.rotate_* | sim.recovery_*)
		x402_key="${1%%_*}.${1#*_}"
		x402_kind "$x402_key"
		;;
	sim.*) false ;;
	*) x402_kind "$x402_type.$1" ;;
	esac || {
		x402_fault "$1" "there is no such option"
		return 1
	}
}

# x402_plain OPTION VALUE says whether a value may be written.
x402_plain() {
	case "$2" in
	*[[:cntrl:]]*)
		x402_fault "$1" "has a line break or another control character in it"
		return 1
		;;
	esac
	[ "${#2}" -le 1024 ] || {
		x402_fault "$1" "is longer than 1024 characters"
		return 1
	}
}

# x402_quote VALUE prints a value as a TOML basic string.
x402_quote() {
	case "$1" in
	*[\\\"]*) printf '"%s"' "$(printf '%s\n' "$1" | sed 's/[\\"]/\\&/g')" ;;
	*) printf '"%s"' "$1" ;;
	esac
}

# x402_put KEY VALUE adds a line, below the head of its table.
x402_put() {
	if [ "$x402_type" = agent ]; then
		x402_top="$x402_top$1 = $2
"
		return
	fi
	if [ -z "$x402_begun" ]; then
		x402_begun=1
		case "$x402_type" in
		sim) x402_body="$x402_body
[[sim]]
" ;;
		*) x402_body="$x402_body
[$x402_type]
" ;;
		esac
	fi
	x402_body="$x402_body$1 = $2
"
}

# x402_flush ends a list.
x402_flush() {
	[ -z "$x402_list" ] || x402_put "$x402_listkey" "[${x402_list#, }]"
	x402_list=''
}

# x402_section TYPE NAME begins a section; without a type it was the last.
x402_section() {
	x402_flush
	x402_type="$1" x402_name="$2" x402_begun=''
	case "$1" in
	'' | sim) return ;;
	agent | modem | price | payment | credit | limits | policy | plan | rotate | recovery | settle) ;;
	*)
		x402_fault '' "there are no sections of the type $1"
		x402_type=unknown
		return
		;;
	esac
	case "$x402_seen" in
	*" $1 "*)
		x402_fault '' "is a second section of the type $1"
		x402_type=unknown
		;;
	esac
	x402_seen="$x402_seen $1 "
	[ "$1" != agent ] || [ "$2" = agent ] || x402_fault '' "the section of the type agent must have the name agent"
}

# x402_option NAME VALUE takes an option. One without a value is not set.
x402_option() {
	[ -n "$2" ] && [ "$x402_type" != unknown ] || return 0
	x402_flush
	x402_find "$1" && x402_plain "$1" "$2" || return 0
	case "$x402_key" in modem.pin_file | pin_file) x402_pins="$x402_pins $2" ;; esac
	case "$x402_as" in
	text) x402_put "$x402_key" "$(x402_quote "$2")" ;;
	list) x402_put "$x402_key" "[$(x402_quote "$2")]" ;;
	level) x402_level="$2" ;;
	number | count)
		case "$2" in
		*[!0-9]*) x402_fault "$1" "is not a number" ;;
		*) [ "$x402_as" = count ] || x402_put "$x402_key" "$2" ;;
		esac
		;;
	bool | switch)
		case "$(get_bool "$2" x)" in
		1) [ "$x402_as" = switch ] || x402_put "$x402_key" true ;;
		0) [ "$x402_as" = switch ] || x402_put "$x402_key" false ;;
		*) x402_fault "$1" "is neither 1 nor 0" ;;
		esac
		;;
	esac
}

# x402_item NAME VALUE takes an item of a list.
x402_item() {
	[ -n "$2" ] && [ "$x402_type" != unknown ] || return 0
	x402_find "$1" && x402_plain "$1" "$2" || return 0
	[ "$x402_as" = list ] || {
		x402_fault "$1" "is one value, not a list: write option in the place of list"
		return 0
	}
	[ "$x402_key" = "$x402_listkey" ] || x402_flush
	x402_listkey="$x402_key"
	x402_list="$x402_list, $(x402_quote "$2")"
}

# x402_load reads the settings. It fails if something is wrong with them.
x402_load() {
	x402_top='' x402_body='' x402_faults='' x402_seen='' x402_list='' x402_listkey='' x402_type='' x402_name='' x402_begun='' x402_level='' x402_pins=''
	config_cb() { x402_section "$1" "$2"; }
	option_cb() { x402_option "$1" "$2"; }
	list_cb() { x402_item "$1" "$2"; }
	config_load x402 || x402_fault '' "the file /etc/config/x402 is missing, or no UCI"
	x402_section '' ''
	reset_cb
	if x402_jailed; then
		case "$x402_body" in
		*power_command\ =*) x402_name=agent x402_fault jail "cannot be 1 together with recovery.power_command: what that runs is not in the jail" ;;
		esac
	fi
	[ -z "$x402_faults" ]
}

# x402_render reads the settings and writes agent.toml, and sets x402_changed if
# it is another one. With faults it holds only what commands like earnings and
# purge need.
x402_render() {
	local status=0
	x402_changed=''
	x402_load || {
		status=1
		x402_top='' x402_body='' x402_level=''
	}
	(
		umask 027
		{
			printf 'state_dir = "%s"\ncontrol = "%s"\n' "$X402_STATE" "$X402_RUN/control/agent.sock"
			printf '%s%s' "$x402_top" "$x402_body"
			[ -z "$x402_level" ] || printf '\n[log]\nlevel = %s\n' "$(x402_quote "$x402_level")"
		} >"$X402_CONFIG.new" && chown "0:$(x402_id /etc/passwd 2)" "$X402_CONFIG.new"
	) || {
		x402_say err "$X402_CONFIG cannot be written: the memory is full. Restart the router"
		return 1
	}
	cmp -s "$X402_CONFIG.new" "$X402_CONFIG" || x402_changed=1
	mv "$X402_CONFIG.new" "$X402_CONFIG"
	return $status
}

# x402_faulty writes what is wrong to the log.
x402_faulty() {
	local line n=0
	while read -r line; do
		[ -z "$line" ] || [ $((n += 1)) -gt 20 ] || x402_say err "$line"
	done <<-END
		$x402_faults
	END
}

# x402_finding LINE reports a line of x402-agent check that is not well. It fails
# if the agent could not run.
x402_finding() {
	local text
	text="$(printf '%s' "$1" | tr -s ' ')"
	case "$text" in
	'failed config '* | 'failed state '* | 'failed key '*)
		x402_say err "${text#failed }"
		return 1
		;;
	'failed '* | 'warning '*) x402_say warn "${text#* }" ;;
	esac
}

# x402_checked has the program look at its settings, and at what is on this
# router. Lines that begin with a blank go on with the one before.
x402_checked() {
	local line text='' found status=0
	found="$("$X402_PROGRAM" check --offline --config "$X402_CONFIG" 2>/dev/null)"
	[ -n "$found" ] || {
		x402_say err "$X402_PROGRAM does not run here: is the package that of this router's architecture, and whole?"
		return 1
	}
	while IFS= read -r line; do
		case "$line" in
		' '*) text="$text $line" ;;
		*)
			x402_finding "$text" || status=1
			text="$line"
			;;
		esac
	done <<-END
		$found
	END
	x402_finding "$text" || status=1
	return $status
}

# x402_modem says so when there is no modem, which the agent waits for.
x402_modem() {
	local port f
	config_get port modem port
	case "$port" in
	none) return ;;
	/*) [ -e "$port" ] || x402_say warn "there is no $port: modem.port may be another one, or auto. Nothing is sold without the modem" ;;
	*)
		for f in /dev/ttyUSB* /dev/ttyACM* /dev/wwan*at*; do
			[ ! -e "$f" ] || return
		done
		x402_say warn "no modem is there, or its driver is missing (kmod-usb-serial-option for most): nothing is sold until it is"
		;;
	esac
}

# x402_running says whether procd runs the agent.
x402_running() {
	local pid
	pid="$(cat "$X402_PID" 2>/dev/null)"
	case "$pid" in
	'' | *[!0-9]*) return 1 ;;
	esac
	kill -0 "$pid" 2>/dev/null
}

# x402_wait waits for the end of an agent that was told to stop: it lets buyers
# finish, and claims what they paid.
x402_wait() {
	local n=0
	while x402_running && [ $((n += 1)) -le 20 ]; do
		sleep 1
	done
	return 0
}

# x402_ready prepares a start. It fails with 1 if nothing is to run, and with 2 if
# what is wrong should not stop an agent that runs already. x402_wanted is set if
# something is to run, now or later.
x402_ready() {
	local enabled consent f status=0
	x402_wanted=''
	x402_prepare || return 2
	x402_render || status=2
	config_get_bool enabled agent enabled 0
	config_get_bool consent agent consent 0
	if [ "$enabled" != 1 ]; then
		x402_say notice "off: nothing is sold. To begin read: service x402-agent risks"
		return 1
	fi
	if [ "$consent" != 1 ]; then
		x402_say err "nothing is sold: you have not agreed to what that means. Read: service x402-agent risks"
		return 1
	fi
	x402_wanted=1
	if [ $status != 0 ]; then
		x402_faulty
		return $status
	fi
	if x402_running && [ -z "$x402_changed" ]; then
		return 0 # it has been looked at
	fi
	x402_checked || return 2
	x402_modem
	for f in /dev/ttyUSB* /dev/ttyACM* /dev/wwan*at*; do
		x402_grant "$f"
	done
}

# x402_environment bounds the memory as the settings say.
x402_environment() {
	local memlimit gc
	config_get memlimit agent memlimit
	config_get gc agent gc
	set --
	[ -z "$memlimit" ] || set -- "GOMEMLIMIT=${memlimit}MiB"
	[ -z "$gc" ] || set -- "$@" "GOGC=$gc"
	[ $# = 0 ] || procd_set_param env "$@"
}

# x402_jailed says whether the agent is to see no more than it needs.
x402_jailed() {
	local jail
	config_get_bool jail agent jail 0
	[ "$jail" = 1 ]
}

# x402_jail has procd start the agent in a jail: it sees devices, its own files,
# and no other process. All of /dev is in it, since modems are plugged in later,
# and all of /sys, where the agent takes a modem off the bus; what it may open
# there is as without. Images for small flash lack ujail.
x402_jail() {
	x402_jailed || return 0
	if ! [ -x /sbin/ujail ]; then
		x402_say warn "there is no jail: agent.jail is 1, but this router has no procd-ujail"
		return 0
	fi
	procd_add_jail x402-agent procfs
	# shellcheck disable=SC2086 # a list of words
	procd_add_jail_mount /etc/TZ /etc/ssl/certs /usr/share/zoneinfo $x402_pins
	procd_add_jail_mount_rw /dev /sys "$X402_KEPT" "$X402_RUN"
	procd_set_param no_new_privs 1
}

# x402_check shows whether all is well, to who asks for it. What the facilitator
# settles in is shown as commands to copy, unless there is something in it that a
# shell might take for its own: it is the facilitator who says it.
x402_check() {
	local found status=0
	x402_prepare || return 1
	x402_render || {
		x402_faulty
		return 1
	}
	found="$("$X402_PROGRAM" check --config "$X402_CONFIG")" || status=$?
	printf '%s\n' "$found" | sed -E -e "s/^    (network|asset|asset_name|asset_version) = \"([A-Za-z0-9 ._:-]{1,80})\"\$/    uci set x402.payment.\\1='\\2'/" \
		-e 's/put this under \[payment\] if you trust it/copy this if you trust it, and uci commit x402/'
	return $status
}
