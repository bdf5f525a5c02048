#!/bin/sh
# fuzz.sh TIME runs every fuzz target of the module for TIME each (3s, 1m).
#
# The go command fuzzes one target at a time, and links the program of its package
# anew for each; here each is linked once. A finding stays in the package's
# testdata/fuzz and fails every later test run until it is fixed.
set -eu

fuzztime=${1:-3s}
go=${GO:-go}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
program=$work/fuzz
log=$work/log
kept=$("$go" env GOCACHE)/fuzz # as the go command keeps what it found interesting

# A run that ends while an input is being tried may fail with this one line and
# nothing found, up to Go 1.26 (golang/go#75804).
expired_cleanly() {
	grep -q 'context deadline exceeded' "$log" && ! grep -qE 'Failing input|panic:|fuzzing process' "$log"
}

fuzz() { # folder package target
	(cd "$1" && "$program" -test.run '^$' -test.fuzz "^$3\$" -test.fuzztime "$fuzztime" -test.fuzzminimizetime 10x \
		-test.fuzzcachedir "$kept/$2") >"$log" 2>&1 || expired_cleanly || {
		cat "$log"
		return 1
	}
	echo "$1 $3: $(grep -oE 'execs: [0-9]+' "$log" | tail -n 1)"
}

count=0 failed=''
for folder in $(grep -rlE "^func Fuzz" --include="*_test.go" . | xargs -r -n 1 dirname | sort -u); do
	package=$("$go" list "$folder")
	rm -f "$program"
	"$go" test -c -fuzz '^Fuzz' -o "$program" "$folder"
	[ -e "$program" ] || continue # its tests are another system's
	listed=$(cd "$folder" && "$program" -test.list '^Fuzz')
	for target in $(echo "$listed" | grep '^Fuzz'); do
		count=$((count + 1))
		fuzz "$folder" "$package" "$target" || failed="$failed $folder:$target"
	done
done

if [ -n "$failed" ]; then
	echo "findings in$failed" >&2
	exit 1
fi
echo "$count fuzz targets, $fuzztime each, no finding"
