package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// plain puts what libraries say of a time limit into words. Whose answer was
// waited for stands before it.
func plain(text string) string {
	return strings.NewReplacer(
		"context deadline exceeded (Client.Timeout exceeded while awaiting headers)", "no answer in time",
		"context deadline exceeded", "no answer in time",
		"i/o timeout", "no answer in time",
	).Replace(text)
}

// given are the places that the user named, so that the commands we suggest name
// them too.
type given struct{ wallet, state string }

// givenBy finds them in a command line.
func givenBy(args []string) (g given) {
	for i, arg := range args {
		name, value, whole := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		if !strings.HasPrefix(arg, "-") {
			continue
		}
		if !whole && i+1 < len(args) {
			value = args[i+1]
		}
		switch name {
		case "wallet":
			g.wallet = value
		case "state":
			g.state = value
		}
	}
	return g
}

// suggested finds the commands of ours in a text that know about places.
var suggested = regexp.MustCompile(`\bx402 (connect|token|pay|wallet (?:new|import|backup|show|fund|refund|withdraw))\b`)

// echo adds the places to the commands that text suggests.
func (g given) echo(text string) string {
	var b strings.Builder
	end := 0
	for _, at := range suggested.FindAllStringSubmatchIndex(text, -1) {
		b.WriteString(text[end:at[1]])
		if end = at[1]; strings.HasPrefix(text[end:], " --help") {
			continue
		}
		if g.wallet != "" {
			b.WriteString(" --wallet " + quoted(g.wallet))
		}
		if g.state != "" && keepsState(text[at[2]:at[3]]) {
			b.WriteString(" --state " + quoted(g.state))
		}
	}
	b.WriteString(text[end:])
	return b.String()
}

// keepsState says whether a command takes --state.
func keepsState(command string) bool {
	return slices.Contains([]string{"connect", "token", "pay", "wallet show", "wallet refund", "wallet withdraw"}, command)
}

// quoted is a word for a shell.
func quoted(word string) string {
	if strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:@%+=,-") == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// sentences is a slog.Handler for people: a line for each record that says what
// happened, why, and when it is tried again.
type sentences struct {
	out   io.Writer
	level slog.Level
	given given
	attrs []slog.Attr
	mu    *sync.Mutex
}

func newSentences(out io.Writer, level slog.Level, g given) *sentences {
	return &sentences{out: out, level: level, given: g, mu: new(sync.Mutex)}
}

func (s *sentences) Enabled(_ context.Context, l slog.Level) bool { return l >= s.level }

func (s *sentences) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *s
	c.attrs = append(append([]slog.Attr(nil), s.attrs...), attrs...)
	return &c
}

func (s *sentences) WithGroup(string) slog.Handler { return s }

func (s *sentences) Handle(_ context.Context, r slog.Record) error {
	attrs := append([]slog.Attr(nil), s.attrs...)
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, a)
		return true
	})
	text := s.given.echo(plain(printable(sentence(r.Message, attrs))))
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := io.WriteString(s.out, text+"\n")
	return err
}

// sentence is "message: reason (the rest); again in a while".
func sentence(message string, attrs []slog.Attr) string {
	text, rest, end := message, []string(nil), ""
	for _, a := range attrs {
		switch value := a.Value.String(); a.Key {
		case "err", "text":
			text += ": " + value
		case "after":
			end = "; again in " + value
			if a.Value.Kind() == slog.KindDuration {
				end = "; again in " + a.Value.Duration().Round(100*time.Millisecond).String()
			}
		case "code": // for programs; the text says it
		default:
			rest = append(rest, fmt.Sprintf("%s %s", a.Key, value))
		}
	}
	if len(rest) > 0 {
		text += " (" + strings.Join(rest, ", ") + ")"
	}
	return text + end
}
