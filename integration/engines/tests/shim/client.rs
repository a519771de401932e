//! containerd's own tests of its client, which is the way to a shim (integration/client):
//! whatever passes with containerd's shim and runc passes with ours too.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use engines::containerd::{PEER, Release, built};
use engines::critest::{Verdict, Verdicts, names, show};
use engines::shim::Shim;
use integration::within;
use nix::sys::signal::Signal;

use crate::daemon::{Daemon, with_daemon};

/// How long a run may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// Both registries that the suite names.
const REGISTRIES: &str = "127.0.0.1 localhost ghcr.io registry.k8s.io\n";
/// What needs a criu, measures, or has nothing to do with containers.
const LEFT_OUT: &str = "Checkpoint|CRWithImage|Fuzz|TestExport|TestImport|TestTransfer|TestMigration|TestConvert|Snapshotter";

#[test]
#[ignore = "takes eight minutes"]
fn what_passes_with_runcs_shim_passes_with_ours() {
    let shims = Shim::tested();
    with_daemon(Release::Current, shims[0], false, &|daemon| {
        let suite = built().join("client.test");
        if !suite.exists() || !Path::new(PEER).exists() {
            return daemon
                .place
                .bed
                .skip("make engines-current has not built it, or there is no runc");
        }
        serve(daemon);
        let before = groups(daemon);
        let ours: Vec<_> = shims.iter().map(|shim| (shim, run(daemon, &named(*shim)))).collect();
        let peers = run(daemon, "io.containerd.runc.v2");
        daemon.place.stop("client-registry", Signal::SIGTERM);
        // The suite names groups above those of its containers, and leaves them. A process in one
        // of them would be left too, and then this fails.
        for group in groups(daemon).difference(&before) {
            daemon.place.sh(&format!("find {group} -depth -type d -exec rmdir {{}} +")).succeeds();
        }
        let passed = names(&peers, |verdict| *verdict == Verdict::Passed);
        daemon.place.claim("most of them pass with runc", passed.len() >= 70);
        for (shim, ours) in &ours {
            show(shim.handler(), ours, &peers);
            let missing: Vec<_> =
                passed.iter().filter(|name| ours.get(**name) != Some(&Verdict::Passed)).collect();
            for name in &missing {
                eprintln!("{name}: {:?}", ours.get(**name));
            }
            daemon.place.claim("what passes with runc passes", missing.is_empty());
        }
    });
}

/// What the suite has containerd call.
fn named(shim: Shim) -> String {
    match shim {
        Shim::Own => "io.containerd.ferrun.v2".to_owned(),
        Shim::ByPath => Shim::program().display().to_string(),
        Shim::Go => "io.containerd.runc.v2".to_owned(),
    }
}

/// The groups at the top of each hierarchy.
fn groups(daemon: &Daemon<'_>) -> BTreeSet<String> {
    let all = daemon.place.bed.by_version("/sys/fs/cgroup/*/*/", "/sys/fs/cgroup/*/");
    let output = daemon.place.sh(&format!("ls -d {all}")).output;
    output.success().lines().map(str::to_owned).collect()
}

/// Its images come from registries whose names are others', so they need certificates.
fn serve(daemon: &Daemon<'_>) {
    let place = daemon.place;
    let work = place.bed.make_directory("client-images", 0o755);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("current/client_images.py");
    let stand_in = built().join("stand-in");
    let line = format!("{} {} {}", script.display(), work.display(), stand_in.display());
    place.sh(&line).output.success();
    place.write("/etc/hosts", REGISTRIES);
    let [key, certificate] = ["key.pem", "certificate.pem"].map(|name| work.join(name));
    let line = format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=tests \
         -addext subjectAltName=DNS:ghcr.io,DNS:registry.k8s.io -keyout {} -out {}",
        key.display(),
        certificate.display()
    );
    place.sh(&line).output.success();
    let config = format!(
        "version: 0.1\nlog: {{accesslog: {{disabled: true}}}}\n\
         storage:\n  filesystem: {{rootdirectory: {:?}}}\n  maintenance: {{readonly: {{enabled: true}}}}\n\
         http: {{addr: \"127.0.0.1:443\", tls: {{certificate: {certificate:?}, key: {key:?}}}}}\n",
        work.join("storage"),
    );
    let file = place.bed.write("client-registry.yml", &config);
    place.start("client-registry", &format!("docker-registry serve {}", file.display()));
    let line =
        format!("curl --silent --fail --cacert {} https://ghcr.io/v2/", certificate.display());
    place.eventually("the registry answers", || place.sh(&line).output.code == 0);
}

fn run(daemon: &Daemon<'_>, runtime: &str) -> Verdicts {
    let place = daemon.place;
    let name = format!("client-{}", place.bed.next());
    let log = place.bed.directory.join(name);
    let certificate = place.bed.directory.join("client-images/certificate.pem");
    let line = format!(
        "SSL_CERT_FILE={} TEST_RUNTIME={runtime} RUNC_FLAVOR=crun $(command -v client.test) -no-criu -test.root \
         -test.v -test.parallel 1 -test.timeout 14m -test.skip '{LEFT_OUT}' >{} 2>&1; echo ended >>{}",
        certificate.display(),
        log.display(),
        log.display(),
    );
    let text = || String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
    let running = place.begin(&line);
    within(PATIENCE, "the suite ends", || text().ends_with("ended\n"));
    running.wait();
    // Of its own daemon, which has ended; of its namespaces only if no container is left in them.
    place.sh("rm -rf /run/containerd-test").output.success();
    place.sh("rmdir --ignore-fail-on-non-empty /run/containerd/runc/*").output.success();
    let text = text();
    let verdicts = verdicts(&text);
    let end: Vec<&str> = text.lines().rev().take(20).collect();
    assert!(!verdicts.is_empty(), "it has not begun; from its end: {end:#?}");
    verdicts
}

/// What `go test -v` says: `--- PASS: NAME (0.01s)`.
fn verdicts(text: &str) -> Verdicts {
    let mut verdicts = Verdicts::new();
    for line in text.lines() {
        let Some((word, rest)) = line.strip_prefix("--- ").and_then(|rest| rest.split_once(": "))
        else {
            continue;
        };
        let name = rest.split(' ').next().unwrap_or_default().to_owned();
        let verdict = match word {
            "PASS" => Verdict::Passed,
            "SKIP" => Verdict::Skipped,
            _ => Verdict::Failed(after(text, &name)),
        };
        verdicts.insert(name, verdict);
    }
    verdicts
}

/// What a test has said of its failure, since it ran or went on.
fn after(text: &str, name: &str) -> String {
    let end = text.find(&format!("--- FAIL: {name} ")).unwrap_or(text.len());
    let markers = ["=== RUN   ", "=== CONT  "].map(|marker| format!("{marker}{name}\n"));
    let start = markers.iter().filter_map(|marker| text[..end].rfind(marker)).max();
    let said = text[start.unwrap_or(end)..].lines().take_while(|line| !line.starts_with("--- "));
    let said = said.filter(|line| line.contains("_test.go:")).map(str::trim);
    said.take(4).collect::<Vec<_>>().join("; ")
}
