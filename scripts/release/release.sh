#!/bin/sh
# release.sh DESCRIBE puts a release into dist/release, and a Debian repository
# into dist/apt, of what `make cross debian packages` has built.
#
# SIGNING_KEY is the file of the key that signs both, made by `go run
# ./scripts/release key NAME`. Without it nothing is signed; with it OpenWrt's
# feeds must be. SOURCE_DATE_EPOCH is the time of all that has one.
set -eu
cd "$(dirname "$0")/../.."
describe=$1
: "${GO:=go}" "${SIGNING_KEY:=}"

out=dist/release
if [ -n "$SIGNING_KEY" ] && { ! [ -e dist/packages/apk/x402.pem ] || ! ls dist/packages/opkg/*/Packages.sig >/dev/null 2>&1; }; then
	echo "release: the feeds are not signed: X402_USIGN_KEY and X402_APK_KEY name keys made by go run ./packaging/openwrt/build -new-keys NAME" >&2
	exit 1
fi
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
(cd "$out" && ../tools/release notice x402*) >dist/tools/NOTICE
cp dist/debian/*.deb "$out"
# OpenWrt's packages are in their feeds: the names of apk's do not have the
# architecture.
cp -R dist/packages "$out/openwrt"
(cd "$out" && find . -type f \( -name 'x402*_*' -o -name '*.ipk' -o -name '*.apk' \) | LC_ALL=C sort |
	xargs ../tools/release sbom -version "$describe") >dist/tools/x402.cdx.json
mv dist/tools/x402.cdx.json dist/tools/NOTICE "$out"
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
