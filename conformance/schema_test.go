package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xeipuuv/gojsonschema"
)

// What the runtime prints and writes is what the specification's own schemas describe.
func TestOutputIsByTheSchema(t *testing.T) {
	runtime := os.Getenv("RUNTIME")
	if runtime == "" {
		t.Skip("RUNTIME names no runtime to ask")
	}
	schemas := schemas(t)
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

// The state of a container in each status that needs no program.
func TestStateIsByTheSchema(t *testing.T) {
	runtime := os.Getenv("RUNTIME")
	if runtime == "" {
		t.Skip("RUNTIME names no runtime to ask")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root, to make a container")
	}
	bundle, root, id := t.TempDir(), t.TempDir(), fmt.Sprintf("by-the-schema-%d", os.Getpid())
	call := func(arguments ...string) []byte {
		t.Helper()
		command := exec.Command(runtime, append([]string{"--root", root}, arguments...)...)
		output, err := command.Output()
		if err != nil {
			t.Fatalf("%v: %v", arguments, err)
		}
		return output
	}
	call("spec", "--bundle", bundle)
	text, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	delete(config, "process")
	config["annotations"] = map[string]string{"org.example.key": "value"}
	if text, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(bundle, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	// Its init keeps what it is given as stdout.
	create := exec.Command(runtime, "--root", root, "create", "--bundle", bundle, id)
	create.Stderr = os.Stderr
	if err := create.Run(); err != nil {
		t.Fatalf("create: %v", err)
	}
	defer call("delete", "--force", id)
	schema := filepath.Join(schemas(t), "state-schema.json")
	for _, status := range []string{"created", "paused", "stopped"} {
		switch status {
		case "paused":
			call("pause", id)
		case "stopped":
			call("resume", id)
			call("kill", id, "KILL")
		}
		state := call("state", id)
		for deadline := time.Now().Add(10 * time.Second); !strings.Contains(string(state), `"`+status+`"`); {
			if time.Now().After(deadline) {
				t.Fatalf("not %s: %s", status, state)
			}
			time.Sleep(5 * time.Millisecond)
			state = call("state", id)
		}
		// A status beside those of the specification is allowed, and not by the schema.
		if status != "paused" {
			validate(t, schema, state)
		}
	}
}

func schemas(t *testing.T) string {
	t.Helper()
	directory, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}",
		"github.com/opencontainers/runtime-spec").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(directory)), "schema")
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
