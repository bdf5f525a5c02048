package modem

import "strings"

// A dialect is what differs between makers.
type dialect struct {
	makers []string // any of them in the maker's or the model's name, in lower case
	iccid  []string // commands for the card's number, best first
	tries  string   // the command for the PIN's tries
	reset  []string // commands that restart it, before AT+CFUN=1,1
	packed bool     // USSD goes and comes as packed septets in hex
	mode   *modeLock
	bands  *bandLock
}

// standardMode is the one of 3GPP TS 27.007 clause 5.9. "Any" depends on what a
// modem has: all, the first three generations, the last two of them.
var standardMode = modeLock{
	get: "+WS46?", prefix: "+WS46", set: "+WS46=%s",
	codes: [modes]string{AnyMode: "25|35|31|30", GSMOnly: "12", UMTSOnly: "22", LTEOnly: "28", NROnly: "36", LTEAndNR: "37"},
}

// dialects is searched from the top; the last one is for every maker.
var dialects = []dialect{
	{
		makers: []string{"quectel rm", "quectel rg", "quectel em120", "quectel em160", "quectel eg512"}, iccid: []string{"+QCCID", "+CCID"}, tries: "+QPINC?", bands: &quectelBands5,
		mode: &modeLock{
			get: `+QNWPREFCFG="mode_pref"`, prefix: "+QNWPREFCFG", field: 1, set: `+QNWPREFCFG="mode_pref",%s`,
			codes: [modes]string{AnyMode: "AUTO", UMTSOnly: "WCDMA", LTEOnly: "LTE", NROnly: "NR5G", LTEAndNR: "LTE:NR5G|NR5G:LTE"},
		},
	}, {
		makers: []string{"quectel"}, iccid: []string{"+QCCID", "+CCID"}, tries: "+QPINC?", bands: &quectelBands,
		mode: &modeLock{
			get: `+QCFG="nwscanmode"`, prefix: "+QCFG", field: 1, set: `+QCFG="nwscanmode",%s,1`,
			codes: [modes]string{AnyMode: "0", GSMOnly: "1", UMTSOnly: "2", LTEOnly: "3"},
		},
	}, {
		makers: []string{"huawei"}, iccid: []string{"^ICCID?"}, tries: "^CPIN?", reset: []string{"^RESET"}, packed: true, bands: &huaweiBands,
		mode: &modeLock{
			get: "^SYSCFGEX?", prefix: "^SYSCFGEX", set: `^SYSCFGEX="%s",40000000,2,4,40000000,,`,
			codes: [modes]string{AnyMode: "00", GSMOnly: "01", UMTSOnly: "02", LTEOnly: "03", NROnly: "08", LTEAndNR: "0803|080302"},
		},
	}, {
		makers: []string{"simcom"}, iccid: []string{"+CICCID", "+CCID"}, tries: "+SPIC", reset: []string{"+CRESET"}, bands: &simcomBands,
		mode: &modeLock{
			get: "+CNMP?", prefix: "+CNMP", set: "+CNMP=%s",
			codes: [modes]string{AnyMode: "2", GSMOnly: "13", UMTSOnly: "14", LTEOnly: "38", NROnly: "71", LTEAndNR: "109"},
		},
	}, {
		makers: []string{"sierra"}, iccid: []string{"+ICCID?", "!ICCID?", "+CCID?"}, tries: "+CPINC?", reset: []string{"!RESET"}, bands: &sierraBands,
		mode: &modeLock{
			get: "!SELRAT?", prefix: "!SELRAT", set: "!SELRAT=%s", frame: frame{before: []string{sierraUnlock}},
			codes: [modes]string{AnyMode: "00", GSMOnly: "02", UMTSOnly: "01", LTEOnly: "06"},
		},
	}, {
		makers: []string{"telit"}, iccid: []string{"#CCID", "+CCID"}, tries: "#PCT", reset: []string{"#REBOOT"}, mode: &standardMode, bands: &telitBands,
	}, {
		makers: []string{"u-blox", "ublox"}, iccid: []string{"+CCID"}, tries: "+UPINCNT", reset: []string{"+CFUN=16"}, bands: &ubloxBands,
		mode: &modeLock{
			get: "+URAT?", prefix: "+URAT", set: "+URAT=%s", frame: offNetwork,
			codes: [modes]string{AnyMode: "4|6|5", GSMOnly: "0", UMTSOnly: "2", LTEOnly: "3"},
		},
	}, {
		makers: []string{"zte"}, iccid: []string{"+ZICCID?", "+CCID"}, tries: "+ZPINPUK=?", reset: []string{"+ZRST"},
		mode: &modeLock{
			get: "+ZSNT?", prefix: "+ZSNT", set: "+ZSNT=%s,0,0",
			codes: [modes]string{AnyMode: "0", GSMOnly: "1", UMTSOnly: "2", LTEOnly: "6"},
		},
	}, {
		makers: []string{"fibocom"}, iccid: []string{"+CCID", "+ICCID"}, bands: &fibocomBands,
		mode: &modeLock{
			get: "+GTACT?", prefix: "+GTACT", set: "+GTACT=%s",
			codes: [modes]string{AnyMode: "20|10", UMTSOnly: "1", LTEOnly: "2", NROnly: "14", LTEAndNR: "17"},
		},
	}, {
		makers: []string{""}, iccid: []string{"+CCID", "+ICCID", "+ICCID?", "^ICCID?", "+CCID?"}, mode: &standardMode,
	},
}

func (d device) dialect() *dialect {
	name := strings.ToLower(d.maker + " " + d.model)
	for i := range dialects {
		for _, maker := range dialects[i].makers {
			if strings.Contains(name, maker) {
				return &dialects[i]
			}
		}
	}
	return nil // not reached: the last one is for all
}
