package modem

import (
	"fmt"
	"strconv"
	"strings"
)

// allBands is how most makers write every band that there is.
const allBands = "7FFFFFFFFFFFFFFF"

// maskOf is a mask in hex; all bands without any.
func maskOf(bands []int) string {
	if len(bands) == 0 {
		return allBands
	}
	return fmt.Sprintf("%X", bandMask(bands))
}

// fieldMask reads LTE bands from one field of the answer.
func fieldMask(prefix string, field, base int) func([]string) (Bands, bool) {
	return func(lines []string) (Bands, bool) {
		f, ok := answerFields(lines, prefix, field+1)
		if !ok {
			return Bands{}, false
		}
		lte, ok := maskBands(f[field], base)
		return Bands{LTE: lte}, ok
	}
}

// onlyLTE makes commands from LTE bands, none when 5G is asked for.
func onlyLTE(set func(lte []int, lines []string) []string) func(Bands, []string) []string {
	return func(want Bands, lines []string) []string {
		if len(want.NR) > 0 {
			return nil
		}
		return set(want.LTE, lines)
	}
}

// +QCFG: "band",0x93,0x1a0080800d5,0x0: 2G and 3G, LTE, TD-SCDMA; 0 keeps one.
var quectelBands = bandLock{
	get:   []string{`+QCFG="band"`},
	parse: fieldMask("+QCFG", 2, 16),
	set: onlyLTE(func(lte []int, _ []string) []string {
		return []string{`+QCFG="band",0,` + strings.ToLower(maskOf(lte)) + ",0,1"}
	}),
}

// +QNWPREFCFG: "lte_band",1:3:7 and the same for "nr5g_band", stand-alone, and
// "nsa_nr5g_band", beside LTE.
var quectelBands5 = bandLock{
	get: []string{`+QNWPREFCFG="lte_band"`, `+QNWPREFCFG="nr5g_band"`},
	parse: func(lines []string) (b Bands, any bool) {
		for _, line := range lines {
			rest, is := after(line, "+QNWPREFCFG")
			f := fields(rest)
			if !is || len(f) < 2 {
				continue
			}
			list, ok := bandList(f[1])
			switch {
			case !ok:
			case f[0] == "lte_band":
				b.LTE, any = list, true
			case f[0] == "nr5g_band":
				b.NR, any = list, true
			}
		}
		return b, any
	},
	set: func(want Bands, _ []string) (commands []string) {
		if len(want.LTE)+len(want.NR) == 0 {
			return []string{`+QNWPREFCFG="all_band_reset"`}
		}
		add := func(name string, bands []int) {
			if len(bands) > 0 {
				commands = append(commands, `+QNWPREFCFG="`+name+`",`+strings.Trim(strings.ReplaceAll(fmt.Sprint(bands), " ", ":"), "[]"))
			}
		}
		add("lte_band", want.LTE)
		add("nr5g_band", want.NR)
		add("nsa_nr5g_band", want.NR)
		return commands
	},
}

// bandList reads numbers between colons.
func bandList(s string) (bands []int, ok bool) {
	for part := range strings.SplitSeq(s, ":") {
		n := number(part)
		if n < 1 || n > maxBand || len(bands) > maxBand {
			return nil, false
		}
		bands = append(bands, n)
	}
	return bands, true
}

// ^SYSCFGEX: "00",3FFFFFFF,1,2,7FFFFFFFFFFFFFFF: order, 2G and 3G, roaming,
// domain, LTE; "99", 40000000, 2 and 4 keep theirs.
var huaweiBands = bandLock{
	get:   []string{"^SYSCFGEX?"},
	parse: fieldMask("^SYSCFGEX", 4, 16),
	set: onlyLTE(func(lte []int, _ []string) []string {
		return []string{`^SYSCFGEX="99",40000000,2,4,` + maskOf(lte) + ",,"}
	}),
}

// +CNBP: 0x0002000000400183,0x000001E000000095: 2G and 3G, LTE.
var simcomBands = bandLock{
	get:   []string{"+CNBP?"},
	parse: fieldMask("+CNBP", 1, 16),
	set: onlyLTE(func(lte []int, lines []string) []string {
		f, ok := answerFields(lines, "+CNBP", 2)
		if !ok {
			return nil
		}
		if _, ok := maskBands(f[0], 16); !ok {
			return nil
		}
		return []string{"+CNBP=" + f[0] + ",0x" + fmt.Sprintf("%016s", maskOf(lte))}
	}),
}

// Sierra's sets of bands are lines of a table without a prefix:
//
//	00, All bands             0002000007C00000 00000100130818DF
//
// index, name, masks of 2G and 3G, of LTE, and on some of more. One at 10 and above may be defined.
var sierraBands = bandLock{
	get: []string{"!BAND?"},
	parse: func(lines []string) (Bands, bool) {
		_, lte, ok := sierraMasks(lines)
		if !ok {
			return Bands{}, false
		}
		list, ok := maskBands(lte, 16)
		return Bands{LTE: list}, ok
	},
	set: onlyLTE(func(lte []int, lines []string) []string {
		if len(lte) == 0 {
			return []string{"!BAND=00"}
		}
		gw, _, ok := sierraMasks(lines)
		if !ok {
			return nil
		}
		const free = "11"
		return []string{fmt.Sprintf(`!BAND=%s,"x402",%s,%016s`, free, gw, maskOf(lte)), "!BAND=" + free}
	}),
	frame: frame{before: []string{sierraUnlock}},
}

// sierraUnlock is the makers' published password for settings.
const sierraUnlock = `!ENTERCND="A710"`

func sierraMasks(lines []string) (gw, lte string, ok bool) {
	for _, line := range lines {
		index, rest, _ := strings.Cut(line, ",")
		if _, hex := maskBands(index, 16); !hex || len(index) != 2 {
			continue
		}
		var masks []string
		for word := range strings.FieldsSeq(rest) {
			if _, hex := maskBands(word, 16); hex && len(word) == 16 {
				masks = append(masks, word)
			}
		}
		if len(masks) >= 2 {
			gw, lte, ok = masks[0], masks[1], true
		}
	}
	return gw, lte, ok
}

// +GTACT: 20,6,3,1,8,101,103,5078: mode, two preferences, then bands: 3G as they
// are, LTE from 101, 5G as 50 and the number.
var fibocomBands = bandLock{
	get: []string{"+GTACT?"},
	parse: func(lines []string) (b Bands, ok bool) {
		f, ok := answerFields(lines, "+GTACT", 4)
		if !ok {
			return b, false
		}
		for _, s := range f[3:] {
			lte, nr := fibocomBand(s)
			switch {
			case lte > 0:
				b.LTE = append(b.LTE, lte)
			case nr > 0:
				b.NR = append(b.NR, nr)
			}
		}
		return b, true
	},
	set: func(want Bands, lines []string) []string {
		if len(want.LTE)+len(want.NR) == 0 {
			return []string{"+GTACT=,,,0"}
		}
		f, ok := answerFields(lines, "+GTACT", 4)
		if !ok {
			return nil
		}
		var cmd strings.Builder
		cmd.WriteString("+GTACT=,,")
		for _, s := range f[3:] {
			lte, nr := fibocomBand(s)
			if number(s) >= 0 && (lte == 0 || len(want.LTE) == 0) && (nr == 0 || len(want.NR) == 0) {
				cmd.WriteString("," + s)
			}
		}
		for _, n := range want.LTE {
			cmd.WriteString("," + strconv.Itoa(100+n))
		}
		for _, n := range want.NR {
			cmd.WriteString(",50" + strconv.Itoa(n))
		}
		return []string{cmd.String()}
	},
}

func fibocomBand(s string) (lte, nr int) {
	n := number(s)
	switch rest, is := strings.CutPrefix(s, "50"); {
	case is && len(s) > 2:
		return 0, max(number(rest), 0)
	case n > 100 && n < 200:
		return n - 100, 0
	}
	return 0, 0
}

// #BND: 1,8,526535: 2G, 3G, and LTE as a decimal mask. There is no word for all.
var telitBands = bandLock{
	get:   []string{"#BND?"},
	parse: fieldMask("#BND", 2, 10),
	set: onlyLTE(func(lte []int, lines []string) []string {
		f, ok := answerFields(lines, "#BND", 3)
		if !ok || len(lte) == 0 || number(f[0]) < 0 || number(f[1]) < 0 {
			return nil
		}
		return []string{"#BND=" + f[0] + "," + f[1] + "," + bandMask(lte).String()}
	}),
}

// +UBANDMASK: 3,526551,0: technology and decimal masks of its bands, which can
// be set only off the network and hold from the next registration on.
var ubloxBands = bandLock{
	get:   []string{"+UBANDMASK?"},
	parse: fieldMask("+UBANDMASK", 1, 10),
	set: onlyLTE(func(lte []int, lines []string) []string {
		f, ok := answerFields(lines, "+UBANDMASK", 2)
		if !ok || len(lte) == 0 || number(f[0]) < 0 {
			return nil
		}
		return []string{"+UBANDMASK=" + f[0] + "," + bandMask(lte).String()}
	}),
	frame: offNetwork,
}

// offNetwork leaves the network for a setting, and comes back.
var offNetwork = frame{before: []string{"+COPS=2"}, after: []string{"+COPS=0"}}
