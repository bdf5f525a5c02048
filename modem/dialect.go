package modem

import "strings"

// A dialect is what differs between makers: the commands for the card's number,
// best first, and the one for the PIN's tries.
type dialect struct {
	makers []string // any of them in the maker's or the model's name, in lower case
	iccid  []string
	tries  string
}

// dialects is searched from the top; the last one is for every maker.
var dialects = []dialect{
	{makers: []string{"quectel"}, iccid: []string{"+QCCID", "+CCID"}, tries: "+QPINC?"},
	{makers: []string{"huawei"}, iccid: []string{"^ICCID?"}, tries: "^CPIN?"},
	{makers: []string{"simcom"}, iccid: []string{"+CICCID", "+CCID"}, tries: "+SPIC"},
	{makers: []string{"sierra"}, iccid: []string{"+ICCID?", "!ICCID?", "+CCID?"}, tries: "+CPINC?"},
	{makers: []string{"telit"}, iccid: []string{"#CCID", "+CCID"}, tries: "#PCT"},
	{makers: []string{"u-blox", "ublox"}, iccid: []string{"+CCID"}, tries: "+UPINCNT"},
	{makers: []string{"zte"}, iccid: []string{"+ZICCID?", "+CCID"}, tries: "+ZPINPUK=?"},
	{makers: []string{"fibocom"}, iccid: []string{"+CCID", "+ICCID"}},
	{makers: []string{""}, iccid: []string{"+CCID", "+ICCID", "+ICCID?", "^ICCID?", "+CCID?"}},
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
