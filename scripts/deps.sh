#!/bin/sh
# deps.sh NAME... makes sure that the commands NAME... are there.
#
# As root on a machine with apt-get the missing ones are installed from the
# distribution's own archive. Otherwise one line says what is missing and how
# to get it; that is an error only with CI=true, since what needs the command
# says so itself and a user may want the rest.
set -eu

package_of() {
	case "$1" in
	qemu-*-static) echo qemu-user-static ;;
	xz) echo xz-utils ;;
	nft) echo nftables ;;
	ip) echo iproute2 ;;
	busybox) echo busybox-static ;;
	cc) echo gcc ;;
	node) echo nodejs ;;
	man) echo man-db ;;
	systemd-nspawn) echo systemd-container ;;
	systemd-*) echo systemd ;;
	ansible-playbook) echo ansible-core python3-apt ;; # its hubs are this machine's files
	*) echo "$1" ;;
	esac
}

commands='' packages=''
for name in "$@"; do
	command -v "$name" >/dev/null 2>&1 && continue
	commands="$commands $name"
	package=$(package_of "$name")
	case " $packages " in
	*" $package "*) ;;
	*) packages="$packages $package" ;;
	esac
done
[ -n "$commands" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "installing$packages"
	export DEBIAN_FRONTEND=noninteractive
	# The first try fails on a machine whose package lists were never read.
	# shellcheck disable=SC2086
	if apt-get install -qq -y --no-install-recommends $packages >/dev/null 2>&1 ||
		{ apt-get update -qq && apt-get install -qq -y --no-install-recommends $packages >/dev/null; }; then
		exit 0
	fi
fi

echo "missing:$commands; on Debian: sudo apt-get install$packages" >&2
[ "${CI:-}" != true ]
