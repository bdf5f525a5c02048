package seller

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// wanted is what the value of a key of the file must be.
func wanted(key string) string { return fields()[key].Tag.Get("want") }

// fields returns the fields of rawFile, by key.
func fields() map[string]reflect.StructField {
	keys := map[string]reflect.StructField{}
	var walk func(prefix string, t reflect.Type)
	walk = func(prefix string, t reflect.Type) {
		for f := range t.Fields() {
			key := prefix + f.Tag.Get("toml")
			keys[key] = f
			if inner := tableOf(f.Type); inner != nil {
				walk(key+".", inner)
			}
		}
	}
	walk("", reflect.TypeFor[rawFile]())
	return keys
}

// tableOf is what a table of the file goes into, nil for a field that takes none.
func tableOf(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	return t
}

// shapeProblems compares a decoded file with rawFile: keys that mean nothing,
// with the one that was likely meant, and values of the wrong type.
func shapeProblems(tree map[string]any) []string {
	var problems []string
	known := fields()
	var walk func(prefix string, table map[string]any)
	walk = func(prefix string, table map[string]any) {
		for _, name := range slices.Sorted(maps.Keys(table)) {
			key := prefix + name
			f, ok := known[key]
			if !ok || strings.Contains(name, ".") {
				problems = append(problems, unknownKey(key, known))
				continue
			}
			inner, isTable := table[name].(map[string]any)
			several, areTables := table[name].([]map[string]any)
			switch wantTable := tableOf(f.Type) != nil; {
			case isTable && wantTable && f.Type.Kind() == reflect.Struct:
				walk(key+".", inner)
			case areTables && wantTable && f.Type.Kind() == reflect.Slice:
				for _, t := range several {
					walk(key+".", t)
				}
			case wantTable || !fits(table[name], f.Type):
				problems = append(problems, key+": want "+f.Tag.Get("want"))
			}
		}
	}
	walk("", tree)
	return problems
}

// fits says whether a decoded value goes into a field of rawFile.
func fits(value any, t reflect.Type) bool {
	switch v := value.(type) {
	case string:
		return t.Kind() == reflect.String
	case int64:
		return t.Kind() == reflect.Int64
	case bool:
		return t.Kind() == reflect.Bool
	case []any:
		return t.Kind() == reflect.Slice && !slices.ContainsFunc(v, func(e any) bool { return !fits(e, t.Elem()) })
	}
	return false
}

// fill puts a table without shapeProblems into the fields for its keys.
func fill(fields reflect.Value, table map[string]any) {
	for f, field := range fields.Fields() {
		switch v := table[f.Tag.Get("toml")].(type) {
		case nil:
		case map[string]any:
			fill(field, v)
		case []map[string]any:
			field.Set(reflect.MakeSlice(f.Type, len(v), len(v)))
			for i, t := range v {
				fill(field.Index(i), t)
			}
		case []any:
			field.Set(reflect.MakeSlice(f.Type, len(v), len(v)))
			for i, e := range v {
				field.Index(i).Set(reflect.ValueOf(e))
			}
		default:
			field.Set(reflect.ValueOf(v))
		}
	}
}

func unknownKey(key string, known map[string]reflect.StructField) string {
	text := fmt.Sprintf("unknown key %.60q", key)
	if like := nearest(key, known); like != "" {
		text += ": did you mean " + like + "?"
	}
	return text
}

// nearest is the key that key most likely stands for, "" if none is near: one
// with few letters changed, or of the same name in another table.
func nearest(key string, known map[string]reflect.StructField) string {
	name := lastName(key)
	best, at := "", 0
	for k := range known {
		d := min(2*distance(strings.ToLower(key), k), 2*distance(strings.ToLower(name), lastName(k))+1)
		if d <= 2*max(1, len(name)/3)+1 && (best == "" || d < at || d == at && k < best) {
			best, at = k, d
		}
	}
	return best
}

func lastName(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// distance is how many letters to insert, remove or replace to get from a to b
// (Levenshtein's).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
