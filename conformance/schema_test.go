package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/xeipuuv/gojsonschema"
)

// What the runtime prints and writes is what the specification's own schemas describe.
func TestOutputIsByTheSchema(t *testing.T) {
	ferrun := os.Getenv("RUNTIME")
	if ferrun == "" {
		t.Skip("RUNTIME names no runtime to ask")
	}
	schemas := schemas(t)
	features, err := exec.Command(ferrun, "features").Output()
	if err != nil {
		t.Fatal(err)
	}
	validate(t, filepath.Join(schemas, "features-schema.json"), features)
	for _, options := range [][]string{{}, {"--rootless"}} {
		bundle := t.TempDir()
		arguments := append([]string{"spec", "--bundle", bundle}, options...)
		if output, err := exec.Command(ferrun, arguments...).CombinedOutput(); err != nil {
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
	ferrun := os.Getenv("RUNTIME")
	if ferrun == "" {
		t.Skip("RUNTIME names no runtime to ask")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root, to make a container")
	}
	bundle, root, id := t.TempDir(), t.TempDir(), fmt.Sprintf("by-the-schema-%d", os.Getpid())
	call := func(arguments ...string) []byte {
		t.Helper()
		command := exec.Command(ferrun, append([]string{"--root", root}, arguments...)...)
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
	// Each hook keeps what it reads.
	kept := t.TempDir()
	kinds := []string{"prestart", "createRuntime", "createContainer", "poststop"}
	hooks := map[string]any{}
	for _, kind := range kinds {
		args := []string{"sh", "-c", "cat >" + filepath.Join(kept, kind)}
		hooks[kind] = []any{map[string]any{"path": "/bin/sh", "args": args, "env": []string{"PATH=/usr/bin:/bin"}}}
	}
	config["hooks"] = hooks
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
	create := exec.Command(ferrun, "--root", root, "create", "--bundle", bundle, id)
	create.Stderr = os.Stderr
	if err := create.Run(); err != nil {
		t.Fatalf("create: %v", err)
	}
	schema := filepath.Join(schemas(t), "state-schema.json")
	defer func() {
		call("delete", "--force", id)
		for _, kind := range kinds {
			state, err := os.ReadFile(filepath.Join(kept, kind))
			if err != nil {
				t.Fatal(err)
			}
			validate(t, schema, state)
		}
	}()
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
		validate(t, schema, []byte(strings.Replace(string(state), `"paused"`, `"running"`, 1)))
	}
}

// The bundle of an image that says all that an image can.
func TestBundleOfAnImageIsByTheSchema(t *testing.T) {
	tool := os.Getenv("IMAGE_TOOL")
	if tool == "" {
		t.Skip("IMAGE_TOOL names no program to ask")
	}
	layout, schema := imageLayout(t), filepath.Join(schemas(t), "config-schema.json")
	for _, options := range [][]string{{}, {"--caps", "minimal", "--seccomp", "none"}} {
		bundle := filepath.Join(t.TempDir(), "bundle")
		arguments := append([]string{"pull"}, options...)
		arguments = append(arguments, "oci:"+layout, bundle)
		if output, err := exec.Command(tool, arguments...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, output)
		}
		config, err := os.ReadFile(filepath.Join(bundle, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		validate(t, schema, config)
	}
}

// imageLayout is an image with one layer, in which there is nothing, on disk.
func imageLayout(t *testing.T) string {
	t.Helper()
	layout := t.TempDir()
	write := func(name string, content []byte) {
		path := filepath.Join(layout, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	type object = map[string]any
	blob := func(kind string, content []byte) object {
		sum := fmt.Sprintf("%x", sha256.Sum256(content))
		write("blobs/sha256/"+sum, content)
		return object{"mediaType": "application/vnd.oci.image." + kind, "digest": "sha256:" + sum, "size": len(content)}
	}
	text := func(value any) []byte { return compact(t, value) }
	layer := blob("layer.v1.tar", make([]byte, 1024))
	config := blob("config.v1+json", text(object{
		"architecture": runtime.GOARCH, "os": "linux", "author": "somebody", "created": "2020-01-01T00:00:00Z",
		"config": object{
			"User": "1000:1000", "Env": []string{"A=b"}, "Entrypoint": []string{"/bin/sh"}, "Cmd": []string{"-c"},
			"WorkingDir": "/w", "Labels": object{"org.example.key": "value"}, "StopSignal": "SIGTERM",
			"ExposedPorts": object{"80/tcp": object{}}, "Volumes": object{"/v": object{}},
		},
		"rootfs": object{"type": "layers", "diff_ids": []any{layer["digest"]}},
	}))
	manifest := blob("manifest.v1+json", text(object{"schemaVersion": 2,
		"mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": []any{layer}}))
	write("index.json", text(object{"schemaVersion": 2, "manifests": []any{manifest}}))
	write("oci-layout", text(object{"imageLayoutVersion": "1.0.0"}))
	return layout
}

func schemas(t *testing.T) string {
	t.Helper()
	// Nothing that is compiled may have needed it yet: it is fetched, not looked for.
	told, err := exec.Command("go", "mod", "download", "-json", "github.com/opencontainers/runtime-spec").Output()
	if err != nil {
		t.Fatal(err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(told, &module); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(module.Dir, "schema")
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
