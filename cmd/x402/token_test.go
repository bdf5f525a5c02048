package main

import (
	"encoding/json"

	"github.com/rogpeppe/go-internal/testscript"
)

// scriptJSONField is `jsonfield NAME VARIABLE`: it sets a variable to a text of
// the JSON object that the last command printed.
func scriptJSONField(ts *testscript.TestScript, _ bool, args []string) {
	var object map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &object))
	text, ok := object[args[0]].(string)
	if !ok {
		ts.Fatalf("no text %q in %v", args[0], object)
	}
	ts.Setenv(args[1], text)
}
