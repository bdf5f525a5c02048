build:
	install -d $(OUT)/root/www
	cp -pR htdocs/* $(OUT)/root/www/
	cp -pR root/* $(OUT)/root/
	printf '%s\n' "$(PKG_VERSION)" "$(LUCI_DEPENDS)" "$(LUCI_PKGARCH)" >$(OUT)/package
