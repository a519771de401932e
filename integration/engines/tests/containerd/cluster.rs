//! A cluster of one node, on which Kubernetes itself runs pods with the runtime, as
//! `packaging/kubernetes` has it.

use std::fs;
use std::path::Path;

use engines::containerd::{Containerd, Release, built};
use engines::{Answer, runtime_name};
use integration::runtime;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::daemon::with_pods;
use engines::pod::merge;

const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";
const SERVER: &str = "registry.k8s.io/e2e-test-images/httpd:2.4.39-4";
/// The address of the only node. Kubernetes takes none of the loopback for one.
const ADDRESS: &str = "10.99.0.1";
/// What the node agent sets of the whole machine where it finds anything else. It finds
/// these, which nobody else sees.
const TUNABLES: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Directories of the machine that the place gets empty ones for, and why.
const HIDDEN: [(&str, &str); 2] =
    [("/var/log", "links to the logs of pods"), ("/opt", "programs for nodes")];

/// A cluster at work.
struct Cluster<'test> {
    daemon: &'test Containerd<'test>,
}

/// Runs a test with a cluster.
fn with_cluster(test: impl Fn(&Cluster<'_>) + Sync) {
    with_pods(Release::Current, |daemon| {
        if !built().join("kubelet").exists() {
            return daemon.place.bed.skip("Kubernetes is not built (make test-engines-current)");
        }
        let cluster = Cluster { daemon };
        cluster.start_control_plane();
        cluster.start_node();
        test(&cluster);
        cluster.stop();
    });
}

impl Cluster<'_> {
    #[track_caller]
    fn start_control_plane(&self) {
        let place = self.daemon.place;
        let home = place.bed.directory.join("home");
        let home = home.display();
        place.sh("openssl genrsa -out key 2048").succeeds();
        place.write(&format!("{home}/tokens"), "token,admin,admin,system:masters\n");
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "only",
            "contexts": [{"name": "only", "context": {"cluster": "only", "user": "admin"}}],
            "users": [{"name": "admin", "user": {"token": "token"}}],
            "clusters": [{"name": "only", "cluster": {
                "server": "https://127.0.0.1:6443", "insecure-skip-tls-verify": true,
            }}],
        });
        place.write(&format!("{home}/.kube/config"), &config.to_string());
        place.start("etcd", "etcd --data-dir=etcd --log-level=warn");
        place.start(
            "kube-apiserver",
            &format!(
                "kube-apiserver --etcd-servers=http://127.0.0.1:2379 --cert-dir=certificates \
                 --bind-address=127.0.0.1 --advertise-address={ADDRESS} \
                 --endpoint-reconciler-type=none --service-cluster-ip-range=10.96.0.0/24 \
                 --token-auth-file=tokens --authorization-mode=AlwaysAllow --allow-privileged \
                 --service-account-issuer=https://localhost --service-account-key-file=key \
                 --service-account-signing-key-file=key \
                 --disable-admission-plugins=ServiceAccount \
                 --kubelet-preferred-address-types=InternalIP"
            ),
        );
        place.eventually("the API answers", || {
            place.sh("kubectl get --raw /readyz").output.stdout == "ok"
        });
        for name in ["kube-controller-manager", "kube-scheduler"] {
            place.start(name, &format!("{name} --kubeconfig=.kube/config --leader-elect=false"));
        }
    }

    #[track_caller]
    fn start_node(&self) {
        let place = self.daemon.place;
        let bed = place.bed;
        place
            .sh(&format!(
                "ip link add node type bridge && ip address add {ADDRESS}/24 dev node && \
                 ip link set node up"
            ))
            .succeeds();
        for (directory, why) in HIDDEN {
            mount(Some(why), directory, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect(why);
        }
        // What the node agent mounts for pods, in a namespace of its own, is seen in all others.
        mount(None::<&str>, "/var/lib", None::<&str>, MsFlags::MS_SHARED, None::<&str>)
            .expect("a shared mount");
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}", bed.name),
            "failCgroupV1": false,
            "protectKernelDefaults": true,
            "oomScoreAdj": 0,
            "podLogsDir": "/var/lib/kubelet/logs",
            "volumePluginDir": "/var/lib/kubelet/plugins",
            "resolvConf": "",
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
        });
        let config = bed.write("kubelet.json", &config.to_string());
        let mut script = String::new();
        for (name, value) in TUNABLES {
            let own = bed.write(&name.replace('/', "."), &format!("{value}\n"));
            script += &format!("mount --bind {} /proc/sys/{name}\n", own.display());
        }
        script += &format!(
            "exec kubelet --config={} --kubeconfig=.kube/config --hostname-override=node \
             --node-ip={ADDRESS}",
            config.display()
        );
        let script = bed.script("kubelet.sh", &script);
        let line = format!("unshare --mount --propagation unchanged {}", script.display());
        place.start("kubelet", &line);
        place.eventually("the node is ready", || {
            self.kubectl("get node node").output.stdout.contains(" Ready ")
        });
    }

    /// Stops all, the node last: it is to clean up what the others take away.
    #[track_caller]
    fn stop(&self) {
        let place = self.daemon.place;
        self.kubectl("delete pod,deployment,daemonset --all --all-namespaces --wait").succeeds();
        place.stop("kubelet", Signal::SIGTERM);
        // It forgets what has stopped only once a minute.
        place.sh("crictl rmp --all").succeeds();
        // The API would wait a minute for clients that have gone.
        for name in ["kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"] {
            place.stop(name, Signal::SIGKILL);
        }
        // mount(8), which the node agent calls, leaves it.
        fs::remove_dir_all("/run/mount").expect("/run/mount");
        for (directory, why) in HIDDEN {
            umount2(directory, MntFlags::MNT_DETACH).expect(why);
        }
        // Only if they are empty: of the groups of pods, the node's own are left.
        let hierarchies = place.bed.by_version("*/", "");
        let groups = format!("/sys/fs/cgroup/{hierarchies}{}/kubepods", place.bed.name);
        place.sh(&format!("find {groups} -depth -type d -exec rmdir {{}} +")).succeeds();
    }

    #[track_caller]
    fn kubectl(&self, line: &str) -> Answer<'_> {
        self.daemon.place.sh(&format!("kubectl {line}"))
    }

    #[track_caller]
    fn apply(&self, object: &Value) {
        let name = format!("object-{}.json", self.daemon.place.bed.next());
        let file = self.daemon.place.bed.write(&name, &object.to_string());
        self.kubectl(&format!("apply --filename {}", file.display())).succeeds();
    }

    /// Waits until an object's field has this value.
    #[track_caller]
    fn becomes(&self, object: &str, field: &str, value: &str) {
        let line = format!("get {object} --output jsonpath='{{{field}}}'");
        self.daemon.place.eventually(&format!("{field} of {object} is {value}"), || {
            self.kubectl(&line).output.stdout == value
        });
    }
}

#[test]
#[ignore = "Kubernetes takes minutes to build (make test-engines-current)"]
fn kubernetes_runs_pods_of_the_runtime_class() {
    with_cluster(|cluster| {
        let class = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../packaging/kubernetes/runtimeclass.yaml");
        let text = fs::read_to_string(class).unwrap().replace("ferrun", runtime_name());
        let class = cluster.daemon.place.bed.write("class.yaml", &text);
        cluster.kubectl(&format!("apply --filename {}", class.display())).succeeds();
        cluster.apply(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "one"},
            "spec": {
                "runtimeClassName": runtime_name(),
                "initContainers": [{
                    "name": "before", "image": BUSYBOX,
                    "command": ["sh", "-c", "echo prepared > /shared/file"],
                    "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
                }],
                "containers": [
                    {
                        "name": "main", "image": BUSYBOX,
                        "command": ["sh", "-c", "touch /tmp/alive; cat /shared/file; sleep 1000"],
                        "volumeMounts": [
                            {"name": "shared", "mountPath": "/shared", "readOnly": true},
                            {"name": "memory", "mountPath": "/tmp"},
                        ],
                        "livenessProbe": {
                            "exec": {"command": ["test", "-e", "/tmp/alive"]},
                            "periodSeconds": 1, "failureThreshold": 1,
                        },
                        "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
                        "securityContext": {
                            "runAsUser": 1000, "allowPrivilegeEscalation": false,
                            "readOnlyRootFilesystem": true,
                            "capabilities": {"drop": ["ALL"]},
                            "seccompProfile": {"type": "RuntimeDefault"},
                        },
                    },
                    {
                        "name": "server", "image": SERVER,
                        "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 1},
                    },
                ],
                "volumes": [
                    {"name": "shared", "emptyDir": {}},
                    {"name": "memory", "emptyDir": {"medium": "Memory"}},
                ],
                "terminationGracePeriodSeconds": 1,
            },
        }));
        // A node without the label is none for this class.
        cluster.becomes("pod one", ".status.conditions[0].reason", "Unschedulable");
        cluster.kubectl(&format!("label node node runtime/{}=true", runtime_name())).succeeds();
        cluster.becomes("pod one", ".status.phase", "Running");
        cluster.becomes("pod one", ".status.containerStatuses[*].ready", "true true");
        cluster.kubectl("logs one main").prints("prepared");
        cluster.kubectl("exec one -c main -- id -u").prints("1000");
        cluster
            .kubectl("exec one -c main -- grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/1/status")
            .prints("CapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2");
        cluster.kubectl("exec one -c main -- touch /shared/file").fails(1, "Read-only file system");
        cluster.kubectl("exec one -c main -- wget -qO- http://127.0.0.1/").mentions("Welcome");
        cluster.kubectl("exec one -c main -- rm /tmp/alive").succeeds();
        cluster.becomes("pod one", ".status.containerStatuses[0].restartCount", "1");
        cluster.kubectl("delete pod one").succeeds();
    });
}

#[test]
#[ignore = "Kubernetes takes minutes to build (make test-engines-current)"]
fn kubernetes_tells_what_became_of_containers() {
    with_cluster(|cluster| {
        let pod = |name: &str, more: &Value, command: &[&str]| {
            let mut container = json!({"name": "only", "image": BUSYBOX, "command": command});
            let mut spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 1});
            merge(&mut container, &more["container"]);
            merge(&mut spec, &more["spec"]);
            spec["containers"] = json!([container]);
            cluster.apply(&json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec,
            }));
        };
        let ended = ".status.containerStatuses[0].state.terminated";
        pod("seven", &json!({}), &["sh", "-c", "exit 7"]);
        cluster.becomes("pod seven", &format!("{ended}.exitCode"), "7");
        cluster.becomes("pod seven", ".status.phase", "Failed");

        let limit = json!({"container": {"resources": {"limits": {"memory": "16Mi"}}}});
        pod("hungry", &limit, &["sh", "-c", "x=x; while :; do x=$x$x; done"]);
        cluster.becomes("pod hungry", &format!("{ended}.reason"), "OOMKilled");
        cluster.becomes("pod hungry", &format!("{ended}.exitCode"), "137");

        pod("missing", &json!({}), &["no-such-program"]);
        cluster.becomes("pod missing", &format!("{ended}.reason"), "StartError");
        let line = format!("get pod missing --output jsonpath='{{{ended}.message}}'");
        cluster.kubectl(&line).mentions("executable file not found in $PATH");

        let hook = json!({"container": {"lifecycle": {
            "postStart": {"exec": {"command": ["sh", "-c", "echo started > /started"]}},
        }}});
        pod("hooked", &hook, &["sleep", "1000"]);
        cluster.becomes("pod hooked", ".status.phase", "Running");
        cluster.kubectl("exec hooked -- cat /started").prints("started");

        if !cluster.daemon.place.bed.is_peer("runc 1.1 does not map the ids of mounts") {
            pod("mapped", &json!({"spec": {"hostUsers": false}}), &["sleep", "1000"]);
            cluster.becomes("pod mapped", ".status.phase", "Running");
            let map = cluster
                .kubectl("exec mapped -- awk '$2 >= 65536 {print $1, $3}' /proc/self/uid_map");
            map.prints("0 65536");
        }
    });
}

#[test]
#[ignore = "Kubernetes takes minutes to build (make test-engines-current)"]
fn a_deployment_grows_is_renewed_and_shrinks() {
    with_cluster(|cluster| {
        let labels = json!({"app": "web"});
        cluster.apply(&json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web"},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "terminationGracePeriodSeconds": 1,
                        "containers": [{
                            "name": "web", "image": SERVER,
                            "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 1},
                        }],
                    },
                },
            },
        }));
        let web = "deployment web";
        cluster.becomes(web, ".status.readyReplicas", "2");
        cluster.kubectl("scale deployment web --replicas=16").succeeds();
        cluster.becomes(web, ".status.readyReplicas", "16");
        cluster.kubectl("set env deployment web WORD=given").succeeds();
        cluster.kubectl("rollout status deployment web --timeout=100s").succeeds();
        cluster.kubectl("exec deployment/web -- printenv WORD").prints("given");
        cluster.kubectl("scale deployment web --replicas=0").succeeds();
        cluster.kubectl("wait --for=delete pod --selector app=web --timeout=100s").succeeds();
    });
}

#[test]
#[ignore = "Kubernetes takes minutes to build (make test-engines-current)"]
fn a_daemon_set_installs_the_runtime_on_a_node() {
    with_cluster(|cluster| {
        let place = cluster.daemon.place;
        if place.bed.is_peer("it installs ferrun") {
            return;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("current/images.py");
        let program = runtime().program.display();
        place.sh(&format!("{} {program} image", script.display())).succeeds();
        place
            .sh("tar -C image -cf image.tar . && ctr --namespace k8s.io images import \
                 --base-name registry.example/ferrun-installer image.tar")
            .succeeds();
        let packaged =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/kubernetes/daemonset.yaml");
        cluster.kubectl(&format!("apply --filename {}", packaged.display())).succeeds();
        let set = "daemonset --namespace kube-system ferrun-installer";
        cluster.becomes(set, ".status.desiredNumberScheduled", "0");
        cluster.kubectl("label node node runtime/ferrun=true").succeeds();
        cluster.becomes(set, ".status.numberReady", "1");
        place.sh(&format!("cmp {program} /opt/ferrun/bin/ferrun")).succeeds();
        place.sh("/opt/ferrun/bin/ferrun --version").mentions("ferrun");
    });
}
