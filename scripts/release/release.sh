#!/bin/sh
# release.sh DESCRIBE puts a release into dist/release, and a Debian repository
# into dist/apt, of what `make cross debian` has built.
#
# SIGNING_KEY is the file of the key that signs both, made by `go run
# ./scripts/release key NAME`. Without it nothing is signed. SOURCE_DATE_EPOCH is
# the time of all that has one.
set -eu
cd "$(dirname "$0")/../.."
describe=$1
: "${GO:=go}" "${SIGNING_KEY:=}"

out=dist/release
rm -rf dist/release dist/apt dist/tools
mkdir -p "$out"
"$GO" build -o dist/tools/release ./scripts/release

# Routers have one program, and their own package managers; the tag router is
# in the name since such a program leaves D-Bus out.
for program in dist/linux_*/x402-agent; do
	target=${program%/*}
	cp "$program" "$out/x402-agent_router_${target#dist/}"
done
for program in dist/debian/*/x402*; do
	architecture=${program#dist/debian/}
	cp "$program" "$out/${program##*/}_debian_${architecture%/*}"
done
(cd "$out" && ../tools/release sbom -version "$describe" x402*) >dist/tools/x402.cdx.json
mv dist/tools/x402.cdx.json "$out"
cp dist/debian/*.deb "$out"
dist/tools/release sums "$out"
dist/tools/release apt -root dist/apt ${SIGNING_KEY:+-key "$SIGNING_KEY"} dist/debian/*.deb
if [ -n "$SIGNING_KEY" ]; then
	dist/tools/release sign -key "$SIGNING_KEY" "$out/SHA256SUMS"
	cp dist/apt/x402-archive-keyring.pgp "$out"
	dist/tools/release verify -keyring "$out/x402-archive-keyring.pgp" "$out/SHA256SUMS"
else
	echo "not signed: set SIGNING_KEY to a key made by go run ./scripts/release key NAME" >&2
fi
rm -rf dist/tools
