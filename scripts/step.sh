#!/bin/sh
# step.sh NAME COMMAND... runs one step of the gate: it says what starts and how
# many seconds it took, and appends "seconds NAME" to the file named by STEPS,
# so that .ci/run can say what takes long.
set -eu

name=$1
shift
echo "── $name"
start=$(date +%s)
status=0
"$@" || status=$?
seconds=$(($(date +%s) - start))
if [ -n "${STEPS:-}" ]; then
	printf '%5d s  %s\n' "$seconds" "$name" >>"$STEPS"
fi
if [ "$status" != 0 ]; then
	echo "── $name: exit status $status after $seconds s" >&2
	exit "$status"
fi
echo "── $name: ok, $seconds s"
