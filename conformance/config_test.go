package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/xeipuuv/gojsonschema"
)

// A configuration with one field changed is wrong by the schema where it is refused, and
// right where it is accepted; or differences says why it is not. Who is refused reads the
// name of that field.
func TestParserAndSchemaAgree(t *testing.T) {
	planner := strings.Fields(os.Getenv("PLANNER"))
	if len(planner) == 0 {
		t.Skip("PLANNER names no program that plans a container for each line")
	}
	base, err := os.ReadFile("every-property.json")
	if err != nil {
		t.Fatal(err)
	}
	schema := loadSchema(t)
	unchanged := Change{Config: compact(t, parse(t, base))}
	tried := append([]Change{unchanged}, schema.changes(t, parse(t, base))...)
	answers := ask(t, planner, tried)
	compiled := compile(t, schema.directory)
	used := map[int]bool{}
	counts := map[string]int{}
	for number, change := range tried {
		result, err := compiled.Validate(gojsonschema.NewBytesLoader(change.Config))
		if err != nil {
			t.Fatalf("%s: %v", change, err)
		}
		refused := answers[number]
		outcome := outcome(result.Valid(), refused == "")
		counts[outcome]++
		rule := slices.IndexFunc(differences, func(rule Difference) bool {
			return rule.covers(change, outcome, refused)
		})
		named := refused == "" || names(refused, change)
		if rule >= 0 {
			used[rule] = true
			named = named || differences[rule].Names != ""
		}
		switch {
		case !named:
			t.Errorf("%s: refused without its name: %s", change, refused)
		case rule < 0 && outcome == wrongAccepted:
			t.Errorf("%s: accepted, by the schema: %v", change, result.Errors())
		case rule < 0 && outcome == rightRefused:
			t.Errorf("%s: right by the schema: %s", change, refused)
		}
	}
	for number, rule := range differences {
		if !used[number] {
			t.Errorf("no change needs the difference at %s: %s", rule.Place, rule.Because)
		}
	}
	if len(tried) < 4000 {
		t.Errorf("%d changes only", len(tried))
	}
	t.Logf("%d changes: %v", len(tried), counts)
}

// The configuration that is changed has each property that the schema knows.
func TestEveryPropertyIsThere(t *testing.T) {
	base, err := os.ReadFile("every-property.json")
	if err != nil {
		t.Fatal(err)
	}
	schema := loadSchema(t)
	known := map[string]bool{}
	schema.walk(schema.root(), parse(t, base), nil, func(place []string, node Node, value any) {
		for name := range node.properties() {
			known[strings.Join(append(slices.Clone(place), name), ".")] = true
		}
		if object, ok := value.(map[string]any); ok {
			for name := range object {
				delete(known, strings.Join(append(slices.Clone(place), name), "."))
			}
		}
	})
	// Of several objects in a list, each property stands in one at least.
	for name := range known {
		other := regexp.MustCompile("^" + regexp.MustCompile(`\\\.\d+\\\.`).ReplaceAllString(regexp.QuoteMeta(name), `\.\d+\.`) + "$")
		if !slices.ContainsFunc(schema.places(parse(t, base)), other.MatchString) &&
			!slices.Contains(notOfLinux, name) {
			t.Errorf("%s: not in every-property.json", name)
		}
	}
}

var notOfLinux = []string{"solaris", "windows", "vm", "zos", "freebsd", "process.user.username", "process.commandLine"}

// What the two say of one configuration.
const (
	agreed        = "agreed"
	rightRefused  = "right by the schema and refused"
	wrongAccepted = "wrong by the schema and accepted"
)

func outcome(valid, accepted bool) string {
	switch {
	case valid && !accepted:
		return rightRefused
	case !valid && accepted:
		return wrongAccepted
	}
	return agreed
}

func (rule Difference) covers(change Change, outcome, refused string) bool {
	return outcome == rule.Outcome && rule.Place.MatchString(change.Place) &&
		(rule.Kind == nil || rule.Kind.MatchString(change.Kind)) &&
		(rule.Says == nil || rule.Says.MatchString(refused)) &&
		(rule.Names == "" || !names(refused, change) && strings.Contains(refused, rule.Names))
}

// names tells whether an error has the whole path of the field, or that of what has lost it
// and the field's name.
func names(refused string, change Change) bool {
	field := change.Field()
	if strings.Contains(refused, field) {
		return true
	}
	// What is missing or unknown is told with the object that it belongs to.
	above, name := "", field
	if at := strings.LastIndexByte(field, '.'); at >= 0 {
		above, name = field[:at], field[at+1:]
	}
	return strings.Contains(refused, above) && strings.Contains(refused, strconv.Quote(name))
}

// A Change is a configuration with one field that was changed.
type Change struct {
	Place  string // the keys and numbers on the way, with dots
	Kind   string
	Config []byte
}

func (change Change) String() string { return fmt.Sprintf("%s: %s", change.Field(), change.Kind) }

// Field is the place as errors write it: `mounts[0].options`, without the number of an entry.
func (change Change) Field() string {
	field := regexp.MustCompile(`\.(\d+)`).ReplaceAllString(change.Place, "[$1]")
	return regexp.MustCompile(`\[\d+\]$`).ReplaceAllString(field, "")
}

// ask hands all configurations to the program and returns its answers.
func ask(t *testing.T, planner []string, tried []Change) []string {
	t.Helper()
	var input bytes.Buffer
	for _, change := range tried {
		input.Write(change.Config)
		input.WriteByte('\n')
	}
	command := exec.Command(planner[0], planner[1:]...)
	command.Stdin, command.Stderr = &input, os.Stderr
	output, err := command.Output()
	if err != nil {
		t.Fatalf("%v: %v", planner, err)
	}
	answers := strings.Split(strings.TrimSuffix(string(output), "\n"), "\n")
	if len(answers) != len(tried) {
		t.Fatalf("%d answers to %d configurations", len(answers), len(tried))
	}
	if answers[0] != "" {
		t.Fatalf("every-property.json is refused: %s", answers[0])
	}
	return answers
}

// A Schema is the files of the specification's schema of config.json.
type Schema struct {
	directory string
	files     map[string]map[string]any
}

// A Node is a place in a schema, with the file that its references are read from.
type Node struct {
	schema *Schema
	file   string
	value  map[string]any
}

func loadSchema(t *testing.T) *Schema {
	t.Helper()
	schema := &Schema{directory: schemas(t), files: map[string]map[string]any{}}
	paths, err := filepath.Glob(filepath.Join(schema.directory, "*.json"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: no schemas: %v", schema.directory, err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		schema.files[filepath.Base(path)] = parse(t, text).(map[string]any)
	}
	return schema
}

func compile(t *testing.T, directory string) *gojsonschema.Schema {
	t.Helper()
	compiled, err := gojsonschema.NewSchema(gojsonschema.NewReferenceLoader(
		"file://" + filepath.Join(directory, "config-schema.json")))
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

func (schema *Schema) root() Node {
	return Node{schema, "config-schema.json", schema.files["config-schema.json"]}
}

// resolved follows references, and lays the parts of allOf over each other.
func (node Node) resolved() Node {
	for node.value["$ref"] != nil {
		file, pointer, _ := strings.Cut(node.value["$ref"].(string), "#")
		if file != "" {
			node.file = file
		}
		var value any = node.schema.files[node.file]
		for _, key := range strings.Split(strings.Trim(pointer, "/"), "/") {
			value = value.(map[string]any)[key]
		}
		node.value = value.(map[string]any)
	}
	parts, _ := node.value["allOf"].([]any)
	if parts == nil {
		return node
	}
	properties := map[string]any{}
	for _, part := range parts {
		resolved := Node{node.schema, node.file, part.(map[string]any)}.resolved()
		for name, value := range resolved.properties() {
			properties[name] = value
		}
	}
	return Node{node.schema, node.file, map[string]any{"type": "object", "properties": properties}}
}

func (node Node) properties() map[string]any {
	properties, _ := node.value["properties"].(map[string]any)
	return properties
}

// below is the schema of a property or of an entry; nothing where it says nothing of it.
func (node Node) below(key string) Node {
	candidates := []any{node.properties()[key], node.value["items"], node.value["additionalProperties"]}
	patterns, _ := node.value["patternProperties"].(map[string]any)
	for _, pattern := range patterns {
		candidates = append(candidates, pattern)
	}
	for _, candidate := range candidates {
		if value, ok := candidate.(map[string]any); ok {
			return Node{node.schema, node.file, value}.resolved()
		}
	}
	return Node{node.schema, node.file, map[string]any{}}
}

// walk visits each value of a configuration with what the schema says of it.
func (schema *Schema) walk(node Node, value any, place []string, visit func([]string, Node, any)) {
	node = node.resolved()
	visit(place, node, value)
	step := func(key string, child any) {
		schema.walk(node.below(key), child, append(slices.Clone(place), key), visit)
	}
	switch value := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			step(key, value[key])
		}
	case []any:
		for number, child := range value {
			step(strconv.Itoa(number), child)
		}
	}
}

func (schema *Schema) places(config any) []string {
	var places []string
	schema.walk(schema.root(), config, nil, func(place []string, _ Node, _ any) {
		places = append(places, strings.Join(place, "."))
	})
	return places
}

// changes is every change of one field.
func (schema *Schema) changes(t *testing.T, config any) []Change {
	t.Helper()
	var all []Change
	schema.walk(schema.root(), config, nil, func(place []string, node Node, value any) {
		if len(place) == 0 {
			return
		}
		others := node.others(value)
		for _, kind := range slices.Sorted(maps.Keys(others)) {
			changed := changedAt(parse(t, compact(t, config)), place, others[kind])
			all = append(all, Change{strings.Join(place, "."), kind, compact(t, changed)})
		}
	})
	return all
}

// absent stands for a field that is taken out.
type absent struct{}

// others is what may stand there instead, by what it is.
func (node Node) others(value any) map[string]any {
	others := map[string]any{
		"absent": absent{}, "null": nil, "true": true, "a fraction": json.Number("1.5"), "a text": "text",
		"an empty text": "", "an empty list": []any{}, "an empty object": map[string]any{},
		"a number": json.Number("1"), "a list": []any{"text"},
	}
	switch value := value.(type) {
	case json.Number:
		for _, edge := range []string{"minimum", "maximum"} {
			number, ok := new(big.Int).SetString(fmt.Sprint(node.value[edge]), 10)
			for _, near := range []int64{-1, 0, 1} {
				if ok {
					next := new(big.Int).Add(number, big.NewInt(near))
					others["the number "+next.String()] = json.Number(next.String())
				}
			}
		}
		for _, number := range []string{"-1", "0", "7", "1e2"} {
			others["the number "+number] = json.Number(number)
		}
	case string:
		choices, _ := node.value["enum"].([]any)
		for _, choice := range choices {
			others[fmt.Sprintf("%q", choice)] = choice
			lower := strings.ToLower(choice.(string))
			others[fmt.Sprintf("%q", lower)] = lower
		}
		for _, text := range []string{"/", "../a", "a b", "-1", value + value, strings.ToUpper(value)} {
			others[fmt.Sprintf("%q", text)] = text
		}
	case []any:
		others["twice"] = append(slices.Clone(value), value...)
		others["with a number"] = append(slices.Clone(value), json.Number("1"))
	case map[string]any:
		more := maps.Clone(value)
		more["org.example.unknown"] = json.Number("1")
		others["with an unknown property"] = more
	}
	for kind, other := range others {
		if fmt.Sprint(other) == fmt.Sprint(value) {
			delete(others, kind)
		}
	}
	return others
}

func changedAt(value any, place []string, other any) any {
	if len(place) == 0 {
		return other
	}
	switch value := value.(type) {
	case map[string]any:
		value[place[0]] = changedAt(value[place[0]], place[1:], other)
		if value[place[0]] == (absent{}) {
			delete(value, place[0])
		}
	case []any:
		number, _ := strconv.Atoi(place[0])
		value[number] = changedAt(value[number], place[1:], other)
		if value[number] == (absent{}) {
			return slices.Delete(value, number, number+1)
		}
	}
	return value
}

// parse keeps numbers as they are written.
func parse(t *testing.T, text []byte) any {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func compact(t *testing.T, value any) []byte {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
