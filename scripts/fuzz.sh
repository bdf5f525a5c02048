#!/bin/sh
# fuzz.sh TIME runs every fuzz target of the module for TIME each (3s, 1m).
#
# The go command fuzzes one target of one package at a time, so the targets are
# looked up first. A finding stays in the package's testdata/fuzz and fails
# every later test run until it is fixed.
set -eu

fuzztime=${1:-3s}
go=${GO:-go}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# A run that ends while an input is being tried may fail with this one line and
# nothing found, up to Go 1.26 (golang/go#75804).
expired_cleanly() {
	grep -q 'context deadline exceeded' "$log" && ! grep -qE 'Failing input|panic:|fuzzing process' "$log"
}

fuzz() { # package target
	"$go" test -run '^$' -fuzz "^$2\$" -fuzztime "$fuzztime" -fuzzminimizetime 10x "$1" >"$log" 2>&1 || expired_cleanly || {
		cat "$log"
		return 1
	}
	echo "$1 $2: $(grep -oE 'execs: [0-9]+' "$log" | tail -n 1)"
}

count=0 failed=''
for folder in $(grep -rlE "^func Fuzz" --include="*_test.go" . | xargs -r -n 1 dirname | sort -u); do
	listed=$("$go" test -list "^Fuzz" "$folder" 2>&1) || {
		echo "$listed" >&2
		exit 1
	}
	for target in $(echo "$listed" | grep "^Fuzz"); do
		count=$((count + 1))
		fuzz "$folder" "$target" || failed="$failed $folder:$target"
	done
done

if [ -n "$failed" ]; then
	echo "findings in$failed" >&2
	exit 1
fi
echo "$count fuzz targets, $fuzztime each, no finding"
