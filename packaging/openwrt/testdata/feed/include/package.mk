# The real one expands the definitions when it is read, and so does this.
all: build

define BuildPackage
build:
	$(Build/Compile)
	$(call Package/$(1)/install,$(OUT)/root)
endef
