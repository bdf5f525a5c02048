//go:build !linux

package server

func setBBR(uintptr) {}
