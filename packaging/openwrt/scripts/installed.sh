if [ -z "$IPKG_INSTROOT" ] && [ "$PKG_UPGRADE" != 1 ]; then
	echo "x402-agent: installed. It sells nothing before you agree: service x402-agent risks"
fi
exit 0
