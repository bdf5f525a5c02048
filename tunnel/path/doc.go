// Package path keeps a connection alive while its ends change addresses.
package path
