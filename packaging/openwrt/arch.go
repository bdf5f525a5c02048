package openwrt

import "slices"

// Targets are the builds of scripts/cross.sh and the architectures of OpenWrt
// that run each. A package's architecture must be exactly the router's: `opkg
// print-architecture` and `apk --print-arch` say it. Which processor is in which
// is docs/decisions/0010-router-targets.md.
var Targets = []Target{
	{"linux_mipsle_softfloat", []string{"mipsel_24kc", "mipsel_74kc"}},
	{"linux_mips_softfloat", []string{"mips_24kc"}},
	{"linux_arm_5", []string{"arm_cortex-a7", "arm_cortex-a9", "arm_arm926ej-s", "arm_xscale"}},
	{"linux_arm_6", []string{"arm_arm1176jzf-s_vfp"}},
	{"linux_arm_7", []string{
		"arm_cortex-a5_vfpv4", "arm_cortex-a7_neon-vfpv4", "arm_cortex-a9_neon", "arm_cortex-a9_vfpv3-d16", "arm_cortex-a15_neon-vfpv4",
	}},
	{"linux_arm64", []string{"aarch64_cortex-a53", "aarch64_cortex-a72", "aarch64_cortex-a76", "aarch64_generic"}},
	{"linux_386_softfloat", []string{"i386_pentium-mmx", "i386_pentium4"}},
	{"linux_amd64", []string{"x86_64"}},
	{"linux_riscv64", []string{"riscv64_generic"}},
	{"linux_loong64", []string{"loongarch64_generic"}},
	{"linux_mips64_softfloat", []string{"mips64_octeonplus"}},
}

// A Target is one build, and the architectures that run it.
type Target struct {
	Build string
	Archs []string
}

// TargetOf returns the build for an architecture, "" if there is none.
func TargetOf(arch string) string {
	for _, t := range Targets {
		if slices.Contains(t.Archs, arch) {
			return t.Build
		}
	}
	return ""
}
