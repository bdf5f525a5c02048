package modem

import "strings"

// MNCLength tells how long the network code in an IMSI is by the numbering plans
// alone, 2 or 3. It is right for most: whoever has the card's own word or the
// registered home network knows better. False: that is no IMSI.
func MNCLength(imsi string) (int, bool) {
	if !isDigits(imsi) || len(imsi) < 6 || len(imsi) > 15 {
		return 0, false
	}
	return tableMNCLength(imsi), true
}

// tableMNCLength tells the length of the network code from the digits alone.
// Where a two-digit code is the beginning of a three-digit one the digits do
// not decide, and this is a guess.
func tableMNCLength(imsi string) int {
	if len(imsi) < 6 {
		return 2
	}
	const mcc, code, entry = 3, 6, 9
	for i := 0; i < len(threeDigits); i += entry {
		r := threeDigits[i : i+entry]
		if r[:mcc] == imsi[:mcc] && r[mcc:code] <= imsi[mcc:code] && imsi[mcc:code] <= r[code:] {
			return 3
		}
	}
	return 2
}

// mncLength decides between the witnesses: ad is what the card's EF_AD says, 0
// when it does not, and plmn the registered home network, "" when there is none.
//
// The card is right nearly always (3GPP TS 31.102 clause 4.2.18). Where the
// table disagrees with it, the registered network decides, if it is the home
// network: its code is a beginning of the IMSI.
func mncLength(imsi string, ad int, plmn string) int {
	table := tableMNCLength(imsi)
	witness := 0
	if (len(plmn) == 5 || len(plmn) == 6) && strings.HasPrefix(imsi, plmn) {
		witness = len(plmn) - 3
	}
	switch {
	case ad == table:
		return ad
	case witness != 0:
		return witness
	case ad != 0:
		return ad
	}
	return table
}
