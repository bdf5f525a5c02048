# A stand-in for the parts of OpenWrt's functions.sh that the package uses, for
# tests: made from what it does, not from its text. /etc/config/FILE is read as
# shell, as the output of `uci export` is.

# What the test counts, and where it cuts the power: before the command number
# /tmp/cut, if there is that file.
for x402_stub in mkdir chown chmod chgrp ln mv sed; do
	eval "$x402_stub() { stub_step; busybox $x402_stub \"\$@\"; }"
done
stub_step() {
	local left
	[ -f /tmp/cut ] || return 0
	read -r left </tmp/cut
	echo $((left - 1)) >/tmp/cut
	[ "$left" -gt 0 ] || kill -9 $$
}

# A second is shorter here.
sleep() { usleep 100000; }

logger() {
	while [ $# -gt 1 ]; do
		case "$1" in
		-p)
			stub_priority="$2"
			shift
			;;
		-t) shift ;;
		esac
		shift
	done
	echo "$stub_priority $1" >>/tmp/log
	echo "$1" >&2
}

reset_cb() {
	config_cb() { return 0; }
	option_cb() { return 0; }
	list_cb() { return 0; }
}
reset_cb

config_load() {
	[ -f "/etc/config/$1" ] || return 1
	CONFIG_SECTION=''
	. "/etc/config/$1"
	${CONFIG_SECTION:+config_cb}
	return 0
}

config() {
	stub_sections=$((stub_sections + 1))
	CONFIG_SECTION="${2:-cfg$stub_sections}"
	config_cb "$1" "$CONFIG_SECTION"
}

stub_set() {
	case "$CONFIG_SECTION$1" in
	*[!A-Za-z0-9_]*) return ;;
	esac
	stub_value="$2"
	eval "CONFIG_${CONFIG_SECTION}_$1=\"\$stub_value\""
}

option() {
	stub_set "$1" "$2"
	option_cb "$1" "$2"
}

list() { list_cb "$1" "$2"; }

config_get() {
	eval "$1=\"\${CONFIG_$2_$3:-\$4}\""
}

get_bool() {
	case "$1" in
	1 | on | true | yes | enabled) printf 1 ;;
	0 | off | false | no | disabled) printf 0 ;;
	*) printf %s "$2" ;;
	esac
}

config_get_bool() {
	config_get stub_bool "$2" "$3" "$4"
	eval "$1=\"\$(get_bool \"\$stub_bool\" \"\$4\")\""
}

user_exists() { grep -q "^$1:" /etc/passwd; }
group_exists() { grep -q "^$1:" /etc/group; }

group_add_next() {
	group_exists "$1" || echo "$1:x:$((32768 + $(wc -l </etc/group))):" >>/etc/group
	grep "^$1:" /etc/group | cut -d: -f3
}

group_add_user() {
	grep "^$1:" /etc/group | grep -q "$2" || busybox sed -i "s/^\\($1:.*:\\)$/\\1$2/; t; s/^\\($1:.*\\)$/\\1,$2/" /etc/group
}

user_add() {
	echo "$1:x:$((40000 + $(wc -l </etc/passwd))):$3:$1:/var/run/$1:/bin/false" >>/etc/passwd
	echo "$1:x:0:0:99999:7:::" >>/etc/shadow
}

# Users of Require-User: USER:GROUP:MORE.
add_group_and_user() {
	local all user group more
	all="$(cat "/lib/apk/packages/$pkgname.rusers" 2>/dev/null || sed -n 's/^Require-User: //p' "/usr/lib/opkg/info/$pkgname.control")"
	[ -n "$all" ] || return 0
	user="${all%%:*}" more="${all##*:}"
	group="${all#*:}"
	group="${group%%:*}"
	user_exists "$user" || user_add "$user" '' "$(group_add_next "$group")"
	group_add_next "$more" >/dev/null
	group_add_user "$more" "$user"
}

stub_list() {
	cat "/lib/apk/packages/$pkgname.list" 2>/dev/null || cat "/usr/lib/opkg/info/$pkgname.list"
}

default_postinst() {
	local f
	if [ -z "$pkgname" ]; then # opkg names the script
		pkgname="$(basename "${1%.*}")"
		add_group_and_user
	fi
	for f in $(stub_list | grep '^/etc/uci-defaults/'); do
		[ ! -f "$f" ] || (. "$f") && rm -f "$f"
	done
	for f in $(stub_list | grep '^/etc/init.d/'); do
		[ "$PKG_UPGRADE" = 1 ] || "$f" enable
		"$f" start
	done
}

default_prerm() {
	local f
	[ -n "$pkgname" ] || pkgname="$(basename "${1%.*}")"
	for f in $(stub_list | grep '^/etc/init.d/'); do
		[ "$PKG_UPGRADE" = 1 ] || "$f" disable
		"$f" stop
	done
	return "${STUB_PRERM:-0}"
}
