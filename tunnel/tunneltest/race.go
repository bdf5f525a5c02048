//go:build race

package tunneltest

const raced = true
