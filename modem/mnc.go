package modem

import "strings"

// threeDigits lists the countries (MCC) whose network codes all have three
// digits, by the numbering plans published under ITU-T E.212.
const threeDigits = " 302 310 311 312 313 314 315 316 330 334 338 342 344 346 348 352 354 356 358 360 365 366 376 708 722 732 750 "

// threeDigitRanges lists MCC, first and last of the three-digit codes in
// countries that have two-digit ones too. Codes that begin like a two-digit one
// of the same country are left out, except where one operator holds both: they
// cannot be told from the digits alone.
const threeDigitRanges = " 208500504 208700714 214700701 250811811 255701701 374120149 405750756 405799999 441200212 467193193 502150157 710300300 738040040 999999999 "

// tableMNCLength tells the length of the network code from the digits alone.
func tableMNCLength(imsi string) int {
	if len(imsi) < 6 {
		return 2
	}
	mcc, mnc := imsi[:3], imsi[3:6]
	if strings.Contains(threeDigits, " "+mcc+" ") {
		return 3
	}
	for r := range strings.FieldsSeq(threeDigitRanges) {
		if r[:3] == mcc && r[3:6] <= mnc && mnc <= r[6:] {
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
