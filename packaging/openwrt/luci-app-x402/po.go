package luci

import (
	"fmt"
	"strconv"
	"strings"
)

// A Message is one text of a catalog. That with an empty ID is its header.
type Message struct{ ID, Text string }

// ParsePO reads a catalog in gettext's format, as far as the app needs it:
// without plurals and contexts.
func ParsePO(b []byte) ([]Message, error) {
	var all []Message
	var into *string // what a line that only goes on belongs to
	for i, line := range strings.Split(string(b), "\n") {
		line = strings.TrimSpace(line)
		word, quoted, _ := strings.Cut(line, " ")
		switch {
		case line == "" || line[0] == '#':
			into = nil
			continue
		case line[0] == '"':
			quoted = line
		case word == "msgid":
			all = append(all, Message{})
			into = &all[len(all)-1].ID
		case word == "msgstr" && len(all) > 0:
			into = &all[len(all)-1].Text
		default:
			return nil, fmt.Errorf("line %d: %.40q: want msgid or msgstr", i+1, line)
		}
		text, err := strconv.Unquote(quoted)
		if err != nil || into == nil {
			return nil, fmt.Errorf("line %d: %.40q: want a text in quotes", i+1, line)
		}
		*into += text
	}
	return all, nil
}

// header is a field of a catalog's header, "" if it is not there.
func header(all []Message, field string) string {
	for _, m := range all {
		for line := range strings.Lines(m.Text) {
			if value, is := strings.CutPrefix(line, field+": "); is && m.ID == "" {
				return strings.TrimSpace(value)
			}
		}
	}
	return ""
}
