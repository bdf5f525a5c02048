#!/bin/sh
# build.sh DESCRIBE builds the Debian packages of all programs into dist/debian,
# and keeps the programs beside them in folders named as the architectures.
#
# DESCRIBE is what `git describe` says, SOURCE_DATE_EPOCH the time of all files,
# ARCHITECTURES a list of Debian's names. The same commit gives the same bytes,
# wherever it is built.
set -eu
cd "$(dirname "$0")/../.."
umask 022
describe=$1
: "${SOURCE_DATE_EPOCH:?is not set}" "${GO:=go}" "${ARCHITECTURES:=amd64 arm64 armhf}"
export SOURCE_DATE_EPOCH CGO_ENABLED=0
out=dist/debian

# A version of Debian's begins with a digit, and without a tag it is below all
# that have one.
case "$describe" in
v[0-9]*) VERSION=$(printf %s "${describe#v}" | tr - +) ;;
*) VERSION=0~$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d.%H%M%S).$(printf %s "$describe" | tr - +) ;;
esac
export VERSION

# programs FOLDER builds the programs for what GOARCH and GOARM say.
programs() {
	"$GO" build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$describe" -o "$out/$1/" ./cmd/...
}

# share NAME SECTION makes what does not depend on the architecture: manual and
# completions of what the program says, and its documents.
share() {
	"$out/tools/manual" -section "$2" -version "$describe" -out "$out/manual" "$out/tools/$1"
	mv "$out/manual/usr/share" "$out/share/$1"
	doc=$out/share/$1/doc/$1
	mkdir -p "$doc"
	cp packaging/debian/copyright CHANGELOG.md "$doc"
	readme=packaging/debian/${1#x402-}/README.Debian
	[ ! -e "$readme" ] || cp "$readme" "$doc"
	"$out/tools/release" notice "$out/tools/$1" >"$doc/NOTICE"
	cat >"$doc/changelog" <<-END
		$1 ($VERSION) stable; urgency=medium

		  * X402 $describe: see CHANGELOG.md.gz.

		 -- X402 authors <depinsim@users.noreply.github.com>  $(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
	END
	find "$out/share/$1/man" "$doc/changelog" "$doc/CHANGELOG.md" "$doc/NOTICE" -type f -exec gzip -9n {} +
}

rm -rf dist/debian
mkdir -p "$out/share"
programs tools # for this machine: what they say is the manual
native=$("$GO" env GOARCH)
"$GO" build -o "$out/tools/" ./packaging/manual ./scripts/release
nfpm=$("$GO" tool -n -modfile=.ci/nfpm.mod nfpm) # built, and kept with what the go command builds
for name in x402-agent x402-relay x402-facilitator; do share "$name" 8; done
share x402 1
find "$out/share" -exec touch -d "@$SOURCE_DATE_EPOCH" {} +

for ARCH in $ARCHITECTURES; do
	export ARCH GOOS=linux
	case "$ARCH" in
	armhf) GOARCH=arm GOARM=6 ;; # Raspberry Pi OS's floor; Debian's own is 7
	*) GOARCH=$ARCH GOARM= ;;
	esac
	export GOARCH GOARM
	if [ "$ARCH" = "$native" ]; then
		mkdir "$out/$ARCH"
		cp "$out"/tools/x402* "$out/$ARCH"
	else
		programs "$ARCH"
	fi
	for package in agent relay facilitator tool; do
		"$nfpm" package --packager deb --config "packaging/debian/$package/nfpm.yaml" --target "$out" >/dev/null
	done
done
rm -rf dist/debian/tools dist/debian/share dist/debian/manual
ls "$out"/*.deb
