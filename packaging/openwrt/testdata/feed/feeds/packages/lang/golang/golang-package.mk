GO_PKG_TARGET_VARS=CGO_ENABLED=1
GO_PKG_VARS=$(GO_PKG_TARGET_VARS) GOTOOLCHAIN=local
GO_PKG_DEFAULT_LDFLAGS=-linkmode external

define GoPackage/Build/Compile
	$(GO_PKG_TARGET_VARS) sh -c 'echo "cgo=$$$$CGO_ENABLED pkg=$(GO_PKG_BUILD_PKG) tags=$(GO_PKG_TAGS)"; \
		echo "$(GO_PKG_LDFLAGS) $(GO_PKG_DEFAULT_LDFLAGS)"; echo "$$$$@"' sh $(1) >$(OUT)/build
endef

define GoPackage/Package/Install/Bin
	install -d -m0755 $(1)/usr/bin
	install -m0755 /dev/null $(1)/usr/bin/x402-agent
endef

define GoBinPackage
endef
