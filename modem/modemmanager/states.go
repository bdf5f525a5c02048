package modemmanager

import (
	"strconv"

	"github.com/godbus/dbus/v5"

	"github.com/depinsim/x402/modem"
)

// Numbers of MMModemState.
const (
	stateFailed       = -1
	stateInitializing = 1
	stateLocked       = 2
)

// stateName is the name of an MMModemState.
func stateName(state int32) string {
	names := []string{
		"failed", "unknown", "initializing", "locked", "disabled", "disabling", "enabling", "enabled", "searching", "registered",
		"disconnecting", "connecting", "connected",
	}
	if i := int(state) + 1; i >= 0 && i < len(names) {
		return names[i]
	}
	return "state " + strconv.Itoa(int(state))
}

// simState joins the state, the reason of MMModemStateFailedReason and the lock
// of MMModemLock.
func simState(p properties, state int32) modem.SIMState {
	sim, _ := value[dbus.ObjectPath](p, "Sim")
	reason, _ := value[uint32](p, "StateFailedReason")
	lock, _ := value[uint32](p, "UnlockRequired")
	switch {
	case state == stateFailed && (reason == 2 || reason == 5): // missing, or an eSIM without a profile
		return modem.SIMAbsent
	case state == stateFailed && reason == 3:
		return modem.SIMFailed
	case state == stateFailed:
		return modem.SIMUnknown
	case state == stateLocked && lock == 2:
		return modem.SIMPIN
	case state == stateLocked && lock == 4:
		return modem.SIMPUK
	case state == stateLocked && lock > 5:
		return modem.SIMLocked
	case state == stateInitializing, state == stateLocked:
		return modem.SIMBusy
	case sim == "/":
		return modem.SIMAbsent
	}
	return modem.SIMReady
}

// registration is an MMModem3gppRegistrationState, which follows 3GPP TS 27.007
// clause 7.2.
func registration(stat uint32) modem.Registration {
	switch stat {
	case 1, 6, 9:
		return modem.Home
	case 2:
		return modem.Searching
	case 3:
		return modem.Denied
	case 5, 7, 10:
		return modem.Roaming
	case 8, 11:
		return modem.EmergencyOnly
	}
	return modem.NotRegistered
}

// technology is the best of MMModemAccessTechnology's bits.
func technology(access uint32) modem.Technology {
	const (
		gsm   = 1<<1 | 1<<2 | 1<<3
		edge  = 1 << 4
		umts  = 1 << 5
		hspa  = 1<<6 | 1<<7 | 1<<8 | 1<<9
		lte   = 1<<14 | 1<<16
		nr    = 1 << 15
		nbIoT = 1 << 17
	)
	switch {
	case access&nr != 0 && access&lte != 0:
		return modem.NRNSA
	case access&nr != 0:
		return modem.NR
	case access&lte != 0:
		return modem.LTE
	case access&nbIoT != 0:
		return modem.NBIoT
	case access&hspa != 0:
		return modem.HSPA
	case access&umts != 0:
		return modem.UMTS
	case access&edge != 0:
		return modem.EDGE
	case access&gsm != 0:
		return modem.GSM
	}
	return modem.NoTechnology
}
