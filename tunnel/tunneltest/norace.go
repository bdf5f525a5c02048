//go:build !race

package tunneltest

const raced = false
