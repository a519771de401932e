// Stands in for what critest's images hold, which their registry alone has: each image
// has this program under the name of the original.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "pause":
		pause()
	case "nonewprivs":
		fmt.Printf("Effective uid: %d\n", os.Geteuid())
	case "nginx", "httpd":
		serve(name)
	default:
		log.Fatalf("%s: no program is called so", name)
	}
}

// pause is the first process of a pod: it reaps the others, and ends when it is told to.
func pause() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGINT, syscall.SIGTERM)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != nil || pid <= 0 {
				break
			}
		}
	}
}

// serve answers every request at the address that is the first argument. Further ones
// only show in its command line, where critest looks for what the original writes there.
func serve(name string) {
	if len(os.Args) < 2 {
		log.Fatalf("usage: %s ADDRESS [WORD ...]", name)
	}
	pid := fmt.Sprintln(os.Getpid())
	if err := os.WriteFile("/run/"+name+".pid", []byte(pid), 0o644); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: at %s\n", name, os.Args[1])
	log.Fatal(http.ListenAndServe(os.Args[1], http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		fmt.Printf("%s: %s %s\n", name, request.Method, request.URL)
		fmt.Fprintf(answer, "<h1>Welcome to %s!</h1>\n", name)
	})))
}
