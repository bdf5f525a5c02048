#!/bin/sh
# cross.sh TARGET builds x402-agent for one router target into dist/TARGET/.
# cross.sh flags prints what makes it small, for OpenWrt's own build, which has the
# tags router and tinygo too.
#
# A TARGET is GOOS_GOARCH or GOOS_GOARCH_VARIANT, where the variant is the value
# of GOARM, GO386, GOMIPS or GOMIPS64. The tag router leaves D-Bus out, see
# docs/decisions/0022-modemmanager.md.
set -eu

go=${GO:-go}
target=$1
ldflags=${LDFLAGS:--s -w}

IFS=_ read -r os arch variant <<EOF
$target
EOF

case "$arch${variant:+_}" in
arm_) export GOARM="$variant" ;;
386_) export GO386="$variant" ;;
mips_ | mipsle_) export GOMIPS="$variant" ;;
mips64_ | mips64le_) export GOMIPS64="$variant" ;;
*_)
	echo "cross: $target: $arch has no variants" >&2
	exit 2
	;;
esac
[ "$target" = flags ] || export CGO_ENABLED=0 GOOS="$os" GOARCH="$arch"
case "$arch" in mips | mipsle) ldflags="$ldflags -R 0x4000" ;; esac

# Inlining everywhere makes the program 0.6 MB larger. Only the packet path, the
# cryptography, the checks of vouchers and what all of them call have it: without,
# a handshake's curves take five times as long, while routers' processors carry
# traffic as fast as with all of it (docs/decisions/0011-agent-size.md). Segments
# are rounded to 16 KiB, the largest page of any MIPS router that is built for,
# and not to the 64 KiB that the architecture allows.
inline=-gcflags=all=-l
for p in internal/runtime/... internal/bytealg internal/byteorder internal/race internal/sync \
	bufio bytes cmp encoding/binary hash/crc32 io math math/bits slices sync sync/atomic unicode/utf8 \
	crypto/cipher crypto/subtle crypto/internal/fips140/... crypto/internal/fips140deps/... \
	golang.org/x/crypto/... vendor/golang.org/x/crypto/... \
	golang.org/x/net/internal/... golang.org/x/net/ipv4 golang.org/x/net/ipv6 \
	github.com/apernet/quic-go/... github.com/xtaci/kcp-go/v5 github.com/decred/dcrd/... \
	github.com/depinsim/x402/channel github.com/depinsim/x402/meter github.com/depinsim/x402/tunnel/...; do
	inline="$inline -gcflags=$p="
done
# Of those, what a handshake does not wait for.
for p in crypto/internal/fips140/ecdsa crypto/internal/fips140/rsa crypto/internal/fips140/edwards25519 \
	crypto/internal/fips140/ed25519 crypto/internal/fips140/drbg \
	github.com/apernet/quic-go/qlog/... github.com/apernet/quic-go/qlogwriter/... \
	github.com/depinsim/x402/tunnel/relay; do
	inline="$inline -gcflags=$p=-l"
done

# The library of secp256k1 has a table of the base point's multiples, packed into a
# text of 0.7 MB, in a file of its own. channel/ecdsa.go has its own table, so the
# library is copied without that file; by the tag tinygo what is left does without it.
secp256k1=github.com/decred/dcrd/dcrec/secp256k1/v4
less=dist/$target/less
[ "$target" = flags ] || trap 'rm -rf "$less"' EXIT
rm -rf "$less"
mkdir -p "$less/secp256k1"
cp "$("$go" list -f '{{.Dir}}' $secp256k1)"/*.* "$less/secp256k1/"
unlink "$less/secp256k1/compressedbytepoints.go"
cp go.mod go.sum "$less/"
"$go" mod edit -replace "$secp256k1=./$less/secp256k1" "$less/go.mod"
if [ "$target" = flags ]; then
	echo "$inline -modfile=$PWD/$less/go.mod"
	exit
fi

# shellcheck disable=SC2086 # a list of words
"$go" build $inline -modfile "$less/go.mod" -tags router,tinygo -trimpath -buildvcs=false -ldflags "$ldflags" \
	-o "dist/$target/" ./cmd/x402-agent
echo "dist/$target/x402-agent"
