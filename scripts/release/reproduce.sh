#!/bin/sh
# reproduce.sh builds the release of HEAD in two fresh clones at different places
# and compares all files. It takes the time of two releases.
set -eu
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for place in one another/place; do
	git clone -q . "$work/$place"
	"${MAKE:-make}" --no-print-directory -C "$work/$place" release >/dev/null
	(cd "$work/$place/dist" && find release apt -type f -exec sha256sum {} + | sort -k 2) >"$work/sums.${place%/*}"
done
diff "$work/sums.one" "$work/sums.another"
echo "$(wc -l <"$work/sums.one") files are the same"
