// Asks a container engine for what Kubernetes' node agent asks, with the node agent's own
// client: pods, and programs in them that tell whether they are well. It is a program and
// stays, as the node agent does, so that what a probe costs is no start of a client.
//
//	prober SOCKET IMAGE CGROUP LOGS
//
// Each line of its input is a request, which is answered by one line:
//
//	pod HANDLER    makes a pod whose container sleeps; the answer is the container's ID
//	probe ID       runs `true` in a container; the answer is how many nanoseconds it took
//
// The answer to what fails is `error: ` and the reason. When the input ends it removes all
// pods.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
	remote "k8s.io/cri-client/pkg"
)

// How long one request may take. The machine may be busy.
const patience = time.Minute

type prober struct {
	engine              cri.RuntimeService
	image, cgroup, logs string
	pods                []string
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 5 {
		log.Fatal("usage: prober SOCKET IMAGE CGROUP LOGS")
	}
	ctx := context.Background()
	engine, err := remote.NewRemoteRuntimeServiceBuilder().
		WithEndpoint("unix://" + os.Args[1]).
		WithConnectionTimeout(patience).
		Build(ctx)
	if err != nil {
		log.Fatal(err)
	}
	p := prober{engine: engine, image: os.Args[2], cgroup: os.Args[3], logs: os.Args[4]}
	requests := bufio.NewScanner(os.Stdin)
	for requests.Scan() {
		answer, err := p.answer(ctx, strings.Fields(requests.Text()))
		if err != nil {
			// In one line, whatever the runtime has said.
			answer = "error: " + strings.Join(strings.Fields(err.Error()), " ")
		}
		fmt.Println(answer)
	}
	if err := errors.Join(requests.Err(), p.clear(ctx)); err != nil {
		log.Fatal(err)
	}
}

func (p *prober) answer(ctx context.Context, words []string) (string, error) {
	if len(words) != 2 {
		return "", errors.New("a request is two words")
	}
	switch verb, object := words[0], words[1]; verb {
	case "pod":
		return p.pod(ctx, object)
	case "probe":
		begin := time.Now()
		_, _, err := p.engine.ExecSync(ctx, object, []string{"true"}, patience)
		return fmt.Sprint(time.Since(begin).Nanoseconds()), err
	default:
		return "", fmt.Errorf("%s: no such request", verb)
	}
}

// pod makes one on the network of the host, which takes no time to set up, and in it a
// container that sleeps.
func (p *prober) pod(ctx context.Context, handler string) (string, error) {
	name := fmt.Sprint("pod-", len(p.pods))
	network := &runtime.NamespaceOption{Network: runtime.NamespaceMode_NODE}
	config := &runtime.PodSandboxConfig{
		Metadata:     &runtime.PodSandboxMetadata{Name: name, Namespace: "probed", Uid: name},
		LogDirectory: filepath.Join(p.logs, name),
		Linux: &runtime.LinuxPodSandboxConfig{
			CgroupParent:    p.cgroup,
			SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: network},
		},
	}
	pod, err := p.engine.RunPodSandbox(ctx, config, handler)
	if err != nil {
		return "", err
	}
	p.pods = append(p.pods, pod)
	container, err := p.engine.CreateContainer(ctx, pod, &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: "sleeps"},
		Image:    &runtime.ImageSpec{Image: p.image},
		Command:  []string{"sleep", "10000"},
		LogPath:  "log",
		Linux: &runtime.LinuxContainerConfig{
			SecurityContext: &runtime.LinuxContainerSecurityContext{NamespaceOptions: network},
		},
	}, config)
	if err != nil {
		return "", err
	}
	return container, p.engine.StartContainer(ctx, container)
}

// clear removes all pods with all that is in them.
func (p *prober) clear(ctx context.Context) error {
	var failed []error
	for _, pod := range p.pods {
		failed = append(failed, p.engine.StopPodSandbox(ctx, pod), p.engine.RemovePodSandbox(ctx, pod))
	}
	return errors.Join(failed...)
}
