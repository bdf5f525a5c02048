package modem

import "strings"

// A usbVendor says which devices of a maker are modems and where their AT port
// is: numbers of USB interfaces, best first. Ports beside them are tried last,
// since a wrong guess costs three seconds and a right one nothing.
type usbVendor struct {
	id, name string
	products string // only these, by a space-separated list; "" for all of the vendor's
	at       []int
}

// usbVendors lists whose devices are touched at all: a serial port of anything
// else may be a printer or a controller, and AT commands are not for it.
//
// The numbers are those of the makers' own descriptions of their ports and of
// the kernel's option and qcserial drivers.
var usbVendors = []usbVendor{
	{id: "2c7c", name: "Quectel", at: []int{2, 3}},   // 0 diagnosis, 1 NMEA, 2 AT, 3 AT and PPP
	{id: "12d1", name: "Huawei", at: []int{2, 1, 0}}, // see rank
	{id: "19d2", name: "ZTE", at: []int{1, 2, 3}},    // 0 diagnosis
	{id: "1e0e", name: "SIMCom", at: []int{2, 3}},    // 0 diagnosis, 1 NMEA, 2 AT, 3 PPP
	{id: "1199", name: "Sierra", at: []int{3, 0}},    // 0 DM, 2 NMEA, 3 AT
	{id: "0f3d", name: "Sierra", at: []int{3, 0}},    // sold as AirPrime
	{id: "413c", name: "Dell", products: "81a2 81a3 81a4 81a8 81a9 81b1 81b3 81b5 81b6 81b9 81cc 81d7 81e0", at: []int{3, 2}}, // Sierra inside
	{id: "2cb7", name: "Fibocom", at: []int{2, 3, 4, 0}},                                                                      // differs by model
	{id: "0e8d", name: "Fibocom", products: "7126 7127", at: []int{4, 5, 2}},                                                  // FM350, of MediaTek
	{id: "1508", name: "Fibocom", at: []int{0, 2}},                                                                            // older ones
	{id: "1bc7", name: "Telit", at: []int{4, 2, 3, 5}},                                                                        // 0 diagnosis, 3 NMEA on LE910
	{id: "1546", name: "u-blox", products: "1102 1104 1141 1143 1146 1311 1312 1313 1341 1342 1343", at: []int{2, 0, 4}},      // its GNSS receivers are left alone
	{id: "05c6", name: "Qualcomm", products: "9000 9003 9025 9091 9201 9215 f601", at: []int{2, 3, 1}},                        // modems under their chip's number
	{id: "1782", name: "Unisoc", products: "4d11", at: []int{1, 2}},
}

// vendorOf finds the vendor of a device, nil for what is no modem.
func vendorOf(vendor, product string) *usbVendor {
	for i := range usbVendors {
		v := &usbVendors[i]
		if v.id == vendor && (v.products == "" || strings.Contains(" "+v.products+" ", " "+product+" ")) {
			return v
		}
	}
	return nil
}

// rank orders an interface among those of its device: the AT port first. On
// Huawei's the interface itself says what it is, by class 255 and protocol: 2,
// 18 or 98 is the port for commands, 3, 19 and 99 that for diagnosis.
func (v *usbVendor) rank(i usbInterface) int {
	if v.id == "12d1" && i.class == 0xff {
		switch i.protocol {
		case 0x02, 0x12, 0x62:
			return -1
		case 0x03, 0x13, 0x63:
			return 100 + i.number
		}
	}
	for rank, number := range v.at {
		if number == i.number {
			return rank
		}
	}
	return 50 + i.number
}

// order sorts the few interfaces of a device by rank, the AT port first.
func (v *usbVendor) order(parts []usbInterface) {
	for i := range parts {
		for j := i; j > 0 && v.rank(parts[j]) < v.rank(parts[j-1]); j-- {
			parts[j], parts[j-1] = parts[j-1], parts[j]
		}
	}
}
