package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xeipuuv/gojsonschema"
)

// What the runtime prints and writes is what the specification's own schemas describe.
func TestOutputIsByTheSchema(t *testing.T) {
	runtime := os.Getenv("RUNTIME")
	if runtime == "" {
		t.Skip("RUNTIME names no runtime to ask")
	}
	directory, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}",
		"github.com/opencontainers/runtime-spec").Output()
	if err != nil {
		t.Fatal(err)
	}
	schemas := filepath.Join(strings.TrimSpace(string(directory)), "schema")
	features, err := exec.Command(runtime, "features").Output()
	if err != nil {
		t.Fatal(err)
	}
	validate(t, filepath.Join(schemas, "features-schema.json"), features)
	for _, options := range [][]string{{}, {"--rootless"}} {
		bundle := t.TempDir()
		arguments := append([]string{"spec", "--bundle", bundle}, options...)
		if output, err := exec.Command(runtime, arguments...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, output)
		}
		config, err := os.ReadFile(filepath.Join(bundle, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		validate(t, filepath.Join(schemas, "config-schema.json"), config)
	}
}

func validate(t *testing.T, schema string, document []byte) {
	t.Helper()
	result, err := gojsonschema.Validate(gojsonschema.NewReferenceLoader("file://"+schema),
		gojsonschema.NewBytesLoader(document))
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range result.Errors() {
		t.Errorf("%s: %s", filepath.Base(schema), wrong)
	}
}
