package modem

import (
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A place is one modem as sysfs shows it, before anybody has asked it.
type place struct {
	path         string // 1-1.2 on USB, 0000:01:00.0 on PCIe
	id           string // vendor:product
	maker        string
	enumerated   string // changes each time the device is enumerated
	unauthorized bool
	ports        []string // ttys and the like that may talk AT, best first
	nets         []string
	controls     []string
}

// A usbInterface is a part of a USB device.
type usbInterface struct {
	number, class, protocol int
	dir                     string
}

// maxEntries bounds every folder that is read here.
const maxEntries = 4096

// scan finds the modems that the kernel knows, by sysfs below root: those on
// PCIe and then those on USB, each by their paths. What cannot be read is not
// there.
func scan(root string) []place { return append(scanWWAN(root), scanUSB(root)...) }

// names are the entries of a folder, in order.
func names(dir string) []string {
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	found, _ := d.Readdirnames(maxEntries) // what was read before an error counts
	slices.Sort(found)
	return found
}

// attribute is the text of a file in sysfs, "" when there is none.
func attribute(dir, name string) string {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 64))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// hexAttribute is -1 for what is no number.
func hexAttribute(dir, name string) int {
	n, err := strconv.ParseUint(attribute(dir, name), 16, 8)
	if err != nil {
		return -1
	}
	return int(n)
}

// scanUSB looks through the USB devices. Their interfaces stand beside them:
// 1-1.2 is the device, 1-1.2:1.3 an interface of it.
func scanUSB(root string) []place {
	dir := filepath.Join(root, "bus/usb/devices")
	all := names(dir)
	var places []place
	for _, name := range all {
		if !usbPath(name) {
			continue
		}
		device := filepath.Join(dir, name)
		vendor, product := attribute(device, "idVendor"), attribute(device, "idProduct")
		v := vendorOf(vendor, product)
		if v == nil {
			continue
		}
		p := place{
			path: name, id: vendor + ":" + product, maker: v.name, enumerated: attribute(device, "devnum"),
			unauthorized: attribute(device, "authorized") == "0",
		}
		var interfaces []usbInterface
		for _, i := range all {
			if strings.HasPrefix(i, name+":") {
				part := filepath.Join(dir, i)
				interfaces = append(interfaces, usbInterface{
					hexAttribute(part, "bInterfaceNumber"), hexAttribute(part, "bInterfaceClass"), hexAttribute(part, "bInterfaceProtocol"), part,
				})
			}
		}
		v.order(interfaces)
		for _, i := range interfaces {
			p.collect(i.dir)
		}
		places = append(places, p)
	}
	return places
}

// usbPath says whether a name is that of a device: bus, "-", and the numbers of
// the ports on the way to it.
func usbPath(name string) bool {
	bus, ports, ok := strings.Cut(name, "-")
	return ok && isDigits(bus) && ports != "" && strings.Trim(ports, "0123456789.") == ""
}

// collect takes what the drivers made of one interface: "ttyUSB2" stands in it,
// the others in folders of their classes.
func (p *place) collect(dir string) {
	for _, name := range names(dir) {
		switch {
		case strings.HasPrefix(name, "ttyUSB"):
			p.ports = append(p.ports, name)
		case name == "tty":
			p.ports = append(p.ports, names(filepath.Join(dir, name))...)
		case name == "net":
			p.nets = append(p.nets, names(filepath.Join(dir, name))...)
		case name == "usbmisc":
			p.controls = append(p.controls, names(filepath.Join(dir, name))...)
		case name == "wwan":
			for _, device := range names(filepath.Join(dir, name)) {
				for _, port := range names(filepath.Join(dir, name, device)) {
					p.wwan(device, port)
				}
			}
		}
	}
}

// wwan takes a port of the kernel's WWAN framework, such as wwan0at0 or wwan0qmi0.
func (p *place) wwan(device, port string) {
	kind, ok := strings.CutPrefix(port, device)
	switch kind = strings.TrimRight(kind, "0123456789"); {
	case !ok || kind == "":
	case kind == "at":
		p.ports = append(p.ports, port)
	case kind == "qmi", kind == "mbim":
		p.controls = append(p.controls, port)
	}
}

// scanWWAN looks for the modems on PCIe: their ports are in a class of their
// own, and belong to the device whose folder they are in.
func scanWWAN(root string) []place {
	class := filepath.Join(root, "class/wwan")
	byDir := map[string]*place{}
	for _, name := range names(class) {
		real, err := filepath.EvalSymlinks(filepath.Join(class, name))
		if err != nil {
			continue
		}
		port := filepath.Base(real)
		device := filepath.Base(filepath.Dir(real))
		dir := pciDir(real)
		if dir == "" || !strings.HasPrefix(port, device) {
			continue
		}
		p := byDir[dir]
		if p == nil {
			strip := func(s string) string { return strings.TrimPrefix(s, "0x") }
			p = &place{path: filepath.Base(dir), id: strip(attribute(dir, "vendor")) + ":" + strip(attribute(dir, "device"))}
			p.nets = netsBelow(root, dir)
			byDir[dir] = p
		}
		p.wwan(device, port)
	}
	var places []place
	for _, dir := range slices.Sorted(maps.Keys(byDir)) {
		places = append(places, *byDir[dir])
	}
	return places
}

// pciDir is the folder of the PCI device that holds a thing, "" when it is on
// USB or nowhere. The last address on the way counts: those before are bridges.
func pciDir(path string) string {
	for dir := filepath.Dir(path); len(dir) > 1; dir = filepath.Dir(dir) {
		name := filepath.Base(dir)
		device, _, isInterface := strings.Cut(name, ":")
		switch {
		case isInterface && usbPath(device):
			return ""
		case len(name) == 12 && name[4] == ':' && name[7] == ':' && name[10] == '.':
			return dir
		}
	}
	return ""
}

// netsBelow are the network interfaces of a device.
func netsBelow(root, dir string) []string {
	class := filepath.Join(root, "class/net")
	var nets []string
	for _, name := range names(class) {
		if real, err := filepath.EvalSymlinks(filepath.Join(class, name)); err == nil && strings.HasPrefix(real, dir+"/") {
			nets = append(nets, name)
		}
	}
	return nets
}

// A Holder is a program that has a port open.
type Holder struct {
	PID  int
	Name string // of the command, "" when it may not be read
}

// holders says who has which device below dev open, by the descriptors that
// proc shows. Without the right to look into others' it shows only our own.
func holders(proc, dev string) map[string]Holder {
	found := map[string]Holder{}
	for _, entry := range names(proc) {
		pid, err := strconv.Atoi(entry)
		if err != nil {
			continue
		}
		fds := filepath.Join(proc, entry, "fd")
		for _, fd := range names(fds) {
			target, err := os.Readlink(filepath.Join(fds, fd))
			if err != nil || !strings.HasPrefix(target, dev+"/") {
				continue
			}
			if _, seen := found[target]; !seen {
				found[target] = Holder{PID: pid, Name: clean(attribute(filepath.Join(proc, entry), "comm"))}
			}
		}
	}
	return found
}
