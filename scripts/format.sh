#!/bin/sh
# format.sh fails and names the files that gofmt would change.
set -eu

files=$(gofmt -s -l .)
[ -z "$files" ] || {
	echo "run make fmt:" "$files" >&2
	exit 1
}
