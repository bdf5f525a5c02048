package carrier

import (
	"strings"
	"sync"
)

// A group is a name that SIMs have, and one that the same company's networks
// have in tables of autonomous systems.
type group struct {
	in    map[string]bool // countries; nil: all
	sim   []string        // words that the brand's or the operator's name begins with
	owner []string        // words that the network's name has
}

// groupLines are the large groups whose networks bear other names than their
// SIMs, or more names than one, as of November 2026. Countries, "*" for all; how
// the SIM's brand or operator is called = how its networks are, "|" between.
// What is not here is claimed, not carrier, so that a name that is missing does
// no harm, and one that is wrong does.
const groupLines = `
* : vodafone = vodafone
DE ES BR : telefonica = telefonica
* : t mobile = t mobile
* : telia = telia
* : tele2 = tele2
* : telenor = telenor
* : ooredoo = ooredoo
* : swisscom = swisscom
* : digicel = digicel
* : vodacom = vodacom
* : mtn = mtn
* : a1 = a1
* : verizon = verizon | cellco
* : at&t = at&t
* : lycamobile = lycamobile
FR ES PL RO BE LU SK MD EG TN MA JO SN ML CI BF CM CD MG GN GW LR SL BW CF RE GP MQ : orange = orange
DE : telekom = deutsche telekom | telekom deutschland | dtag
DE : o2 = telefonica | o2
DE : 1&1 = 1&1
GB : o2 = telefonica uk | o2
GB : ee = ee limited | ee ltd | everything everywhere | british telecommunications
GB : bt = british telecommunications
GB : bt group = british telecommunications
GB IE AT HK ID : 3 = hutchison
AT : drei = hutchison
AT : magenta = t mobile | magenta
SE DK : 3 = hi3g
NL : odido = odido | t mobile
NL : t mobile = odido
NL : kpn = kpn
BE : proximus = proximus | belgacom
BE : base = telenet
BE : telenet = telenet
FR : sfr = sfr | societe francaise du radiotelephone
FR : free = free mobile | free sas | proxad
ES : movistar = telefonica
AR : movistar = telefonica de argentina
CL : movistar = telefonica chile
PE : movistar = telefonica del peru
EC : movistar = otecel
CO : movistar = colombia telecomunicaciones
ES : yoigo = xfera
IT : tim = telecom italia | tim
IT : wind = wind tre
IT : 3 = wind tre
PT : meo = meo | altice portugal | ptprime
PT : nos = nos comunicacoes
PL : plus = polkomtel
PL : play = p4
HU : telekom = magyar telekom
SK : telekom = slovak telekom
HR : ht = hrvatski telekom
HR : t mobile = hrvatski telekom
ME : t mobile = crnogorski telekom
MK : telekom = makedonski telekom
GR : cosmote = cosmote | ote
RO : telekom = telekom romania
RO : digi = digi romania | rcs & rds | rcs rds
TR : turk telekom = turk telekom | tt mobil | avea
RU : mts = mts pjsc | mobile telesystems
RU : beeline = vimpelcom
RU : megafon = megafon
UA : kyivstar = kyivstar
US : us cellular = uscellular | united states cellular
CA : bell = bell canada | bell mobility
CA : rogers = rogers
CA : telus = telus
MX : telcel = radiomovil dipsa
BR : vivo = telefonica
BR : tim = tim
BR : claro = claro
AR : claro = amx argentina | claro
AR : personal = telecom argentina
CL : claro = claro
CL : entel = entel
CO : claro = comcel | comunicacion celular
PE : claro = america movil peru
EC : claro = conecel
IN : airtel = bharti airtel
IN : jio = reliance jio
IN : vi = vodafone idea | idea cellular
IN : bsnl = bsnl | bharat sanchar nigam
PK : jazz = pakistan mobile communications | pmcl
PK : zong = cmpak | china mobile pak
PK : ufone = ufone | pak telecom mobile
BD : grameenphone = grameenphone
JP : au = kddi
JP : docomo = ntt docomo
JP : softbank = softbank
JP : rakuten = rakuten mobile
KR : kt = korea telecom
KR : sk telecom = sk telecom
KR : lg u = lg powercomm | lg uplus | lg dacom
CN : china mobile = china mobile | cmnet
CN : china unicom = china unicom | china169
CN : china telecom = chinanet | china telecom
TW : chunghwa = chunghwa | data communication business group | hinet
TW : far eastone = far eastone
TW : taiwan mobile = taiwan mobile
PH : smart = smart communications
PH : globe = globe telecom
ID : telkomsel = telkomsel | telekomunikasi selular
ID : indosat = indosat
ID : xl = xl axiata
ID : 3 = indosat
MY : celcom = celcom
MY : digi = digi telecommunications | celcomdigi
MY : maxis = maxis
TH : ais = advanced wireless network | awn
TH : truemove = true move | true mobile
TH : dtac = dtac | total access communication
VN : viettel = viettel
VN : mobifone = mobifone
VN : vinaphone = vnpt
SG : singtel = singtel | singapore telecommunications
SG : starhub = starhub
AU : telstra = telstra
AU : optus = optus
AU : vodafone = tpg
NZ : spark = spark new zealand
NZ : 2degrees = 2degrees
AE : etisalat = etisalat | emirates telecommunications
AE : du = emirates integrated
SA : stc = saudi telecom
SA : al jawal = saudi telecom
SA : mobily = etihad etisalat | mobily
SA : zain = mobile telecommunication company saudi | zain
EG : we = te as | te data | telecom egypt
EG : etisalat = etisalat misr
NG : glo = globacom
KE : safaricom = safaricom
NG KE UG TZ ZM MW RW GA TD CG CD MG NE : airtel = airtel
ZA : cell c = cell c
ZA : telkom = telkom sa
`

// groups are those of groupLines.
var groups = sync.OnceValue(func() []group {
	var all []group
	for line := range strings.Lines(groupLines) {
		where, names, ok := strings.Cut(line, " : ")
		sim, owners, isPair := strings.Cut(names, " = ")
		if !ok || !isPair {
			continue
		}
		var in map[string]bool
		if where != "*" {
			in = set(where)
		}
		for owner := range strings.SplitSeq(owners, "|") {
			all = append(all, group{in, words(sim), words(owner)})
		}
	}
	return all
})

// homeWords are words for a country in names of its own companies.
var homeWords = func() map[string]map[string]bool {
	m := make(map[string]map[string]bool)
	for line := range strings.Lines(`
AR argentina
AT austria osterreich
AU australia
BE belgium belgie belgique
BR brasil brazil
CA canada
CH switzerland schweiz suisse
CL chile
CO colombia
CZ czech republic ceska republika
DE germany deutschland
DK danmark denmark
EG egypt misr
ES espana spain espagne
FI finland suomi
FR france
GB uk
GH ghana
GR greece hellas
HK hong kong
HU hungary magyarorszag
ID indonesia
IE ireland
IN india
IT italia italy
JP japan
KE kenya
MX mexico
MY malaysia
NG nigeria
NL nederland netherlands
NO norge norway
NZ new zealand
PE peru
PH philippines
PK pakistan
PL polska poland
PT portugal
RO romania
SE sverige sweden
SG singapore
TH thailand
TR turkiye turkey
UA ukraine
US us usa
ZA south africa
`) {
		country, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		m[country] = set(rest)
	}
	return m
}()
