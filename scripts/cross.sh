#!/bin/sh
# cross.sh TARGET builds x402-agent for one router target into dist/TARGET/.
#
# A TARGET is GOOS_GOARCH or GOOS_GOARCH_VARIANT, where the variant is the value
# of GOARM, GO386, GOMIPS or GOMIPS64. The tag leaves net/http's HTTP/2 out, see
# docs/decisions/0011-agent-size.md.
set -eu

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
export CGO_ENABLED=0 GOOS="$os" GOARCH="$arch"

# What runs once or seldom is built without inlining, which is 0.5 MB; the packet
# path, QUIC and the ciphers are not in this list.
small=
for p in crypto/tls crypto/x509 encoding/asn1 encoding/json fmt log/slog math/big net net/http reflect time \
	github.com/BurntSushi/toml github.com/depinsim/x402/agent/... github.com/depinsim/x402/modem \
	github.com/warthog618/modem/...; do
	small="$small -gcflags=$p=-l"
done
# shellcheck disable=SC2086 # a list of words
"${GO:-go}" build $small -tags nethttpomithttp2 -trimpath -buildvcs=false -ldflags "$ldflags" -o "dist/$target/" ./cmd/x402-agent
echo "dist/$target/x402-agent"
