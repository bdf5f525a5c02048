package openwrt

import (
	"fmt"
	"regexp"
)

// A Version is one of a package, which the two package managers spell in ways of
// their own: apk refuses what opkg needs to order a release candidate before its
// release.
type Version struct {
	base  string // 1.0.0
	pre   string // rc1, "" for a release
	after string // commits since the tag, "" if it is the tag
	hash  string // of the commit, if it is not the tag
}

var describeForm = regexp.MustCompile(`^(?:v?([0-9]{1,6}(?:\.[0-9]{1,6}){1,3})(?:-((?:alpha|beta|rc)[0-9]{0,4}))?(?:-([0-9]{1,6})-g([0-9a-f]{4,40}))?|([0-9a-f]{7,40}))(?:-dirty)?$`)

// ParseVersion reads what `git describe --tags --always --dirty` prints: v1.0.0,
// v1.0.0-rc1-12-gabcdef0, or a commit without a tag.
func ParseVersion(s string) (Version, error) {
	m := describeForm.FindStringSubmatch(s)
	switch {
	case m == nil:
		return Version{}, fmt.Errorf("version %.64q: want v1.0.0, v1.0.0-rc1, what git describe makes of them, or a commit", s)
	case m[5] != "":
		return Version{base: "0.0.0", hash: m[5]}, nil
	}
	return Version{m[1], m[2], m[3], m[4]}, nil
}

// release is the number of the packaging.
const release = "-r1"

// IPK is the version as opkg orders it: 1.0.0~rc1+12.abcdef0-r1.
func (v Version) IPK() string {
	s := v.base
	if v.pre != "" {
		s += "~" + v.pre
	}
	switch {
	case v.after != "":
		s += "+" + v.after + "." + v.hash
	case v.hash != "":
		s += "+" + v.hash
	}
	return s + release
}

// APK is the version as apk wants it: 1.0.0_rc1_p12~abcdef0-r1.
func (v Version) APK() string {
	s := v.base
	if v.pre != "" {
		s += "_" + v.pre
	}
	if v.after != "" {
		s += "_p" + v.after
	}
	if v.hash != "" {
		s += "~" + v.hash
	}
	return s + release
}
