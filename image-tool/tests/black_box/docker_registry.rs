//! Debian's docker-registry, a registry that other people wrote.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Result, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::image::{Image, Layer, MANIFEST, digest};
use crate::tool::skip;
use crate::tool::{Scratch, config, image_tool, pull, pull_badly, pull_well, stderr};

/// A registry with its data and its log in a directory of the test.
struct DockerRegistry {
    process: Child,
    port: u16,
}

impl DockerRegistry {
    /// Nothing if it is not installed.
    fn start(scratch: &Scratch, tls: Option<(&Path, &Path)>) -> Option<Self> {
        // Between our look at a port and its use another test may take it.
        (0..5).find_map(|_| match Self::start_once(scratch, tls) {
            Ok(registry) => Some(Some(registry)),
            Err(error) if error.kind() == ErrorKind::NotFound => Some(None),
            Err(_) => None,
        })?
    }

    fn start_once(scratch: &Scratch, tls: Option<(&Path, &Path)>) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut http = json!({"addr": format!("127.0.0.1:{port}")});
        if let Some((certificate, key)) = tls {
            http["tls"] = json!({"certificate": certificate, "key": key});
        }
        let storage = json!({"filesystem": {"rootdirectory": scratch.join("data")}});
        let config = json!({"version": 0.1, "storage": storage, "http": http});
        // JSON is YAML.
        fs::write(scratch.join("registry.yml"), config.to_string())?;
        let log = File::create(scratch.join("registry.log"))?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(scratch.join("registry.yml")).stdout(log.try_clone()?).stderr(log);
        let mut registry = Self { process: command.spawn()?, port };
        for _ in 0..500 {
            let log = fs::read_to_string(scratch.join("registry.log"))?;
            if log.contains("listening on") && TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(registry);
            }
            if registry.process.try_wait()?.is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let log = fs::read_to_string(scratch.join("registry.log"))?;
        eprintln!("docker-registry did not start: {log}");
        Err(ErrorKind::AddrInUse.into())
    }

    fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// Pushes by plain HTTP.
    fn push(&self, name: &str, tag: &str, image: &Image) {
        for (digest, blob) in &image.blobs {
            let (status, location) =
                self.request("POST", &format!("/v2/{name}/blobs/uploads/"), "", b"");
            assert_eq!(status, 202);
            let path = location.split_once("/v2/").map(|(_, path)| format!("/v2/{path}")).unwrap();
            let separator = if path.contains('?') { '&' } else { '?' };
            let path = format!("{path}{separator}digest={digest}");
            assert_eq!(self.request("PUT", &path, "application/octet-stream", blob).0, 201);
        }
        let path = format!("/v2/{name}/manifests/{tag}");
        assert_eq!(self.request("PUT", &path, MANIFEST, &image.manifest_bytes()).0, 201);
    }

    fn request(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let host = format!("127.0.0.1:{}", self.port);
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let location = lines.find_map(|line| line.strip_prefix("Location: ").map(str::to_owned));
        (status, location.unwrap_or_default())
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_real_registry_serves_what_was_pushed() {
    let scratch = Scratch::new("docker-registry");
    let Some(registry) = DockerRegistry::start(&scratch, None) else {
        skip!("docker-registry is not installed");
    };
    let image = Image::new([
        Layer::new().directory("etc").file("etc/release", "one\n").file("gone", ""),
        Layer::new().file(".wh.gone", "").file("etc/release", "two\n"),
    ]);
    let image = image
        .with(json!({"Entrypoint": ["/init"], "Cmd": ["x"], "Env": ["A=b"], "WorkingDir": "/srv"}));
    registry.push("library/test", "1", &image);

    let by_digest =
        format!("{}@{}", registry.reference("library/test"), digest(&image.manifest_bytes()));
    for reference in [registry.reference("library/test:1"), by_digest] {
        let root = pull_well(&scratch, &reference, &[]);
        assert_eq!(fs::read_to_string(root.join("etc/release")).unwrap(), "two\n");
        assert!(!root.join("gone").exists());
        let process = config(&scratch)["process"].clone();
        assert_eq!(process["args"], json!(["/init", "x"]));
        assert_eq!(process["cwd"], "/srv");
        fs::remove_dir_all(scratch.join("bundle")).unwrap();
    }

    let error = pull_badly(&scratch, &registry.reference("library/test:2"), &[]);
    assert_eq!(error, "manifest 2 of library/test: not found (manifest unknown)");
}

#[test]
fn a_registry_with_tls_is_trusted_only_with_its_certificate() {
    let scratch = Scratch::new("tls");
    let (certificate, key) = (scratch.join("certificate.pem"), scratch.join("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=loopback", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output();
    if !made.is_ok_and(|output| output.status.success()) {
        skip!("openssl is not installed");
    }
    let Some(registry) = DockerRegistry::start(&scratch, Some((&certificate, &key))) else {
        skip!("docker-registry is not installed");
    };
    let attempt = |roots: Option<&Path>, arguments: &[&str]| {
        let mut command = image_tool(scratch.path());
        if let Some(roots) = roots {
            command.env("SSL_CERT_FILE", roots);
        }
        let output = command
            .args(["pull", &registry.reference("x"), "bundle"])
            .args(arguments)
            .output()
            .unwrap();
        (output.status.code(), stderr(&output))
    };
    // With the certificate the registry is reached, and it has no such image.
    let (_, trusted) = attempt(Some(&certificate), &["--plain-http=false"]);
    assert!(trusted.contains("not found"), "{trusted}");
    let (status, distrusted) = attempt(None, &["--plain-http=false"]);
    assert_eq!(status, Some(1));
    assert!(distrusted.contains("certificate"), "{distrusted}");
    let (status, plain) = attempt(Some(&certificate), &[]);
    assert_eq!(status, Some(1), "{plain}");
}

#[test]
fn the_bundle_runs_where_a_runtime_is_installed() {
    if !crate::tool::is_root() {
        skip!("needs root");
    }
    let Ok(busybox) = fs::read("/bin/busybox") else { skip!("no static busybox at /bin/busybox") };
    if Command::new("crun").arg("--version").output().is_err() {
        skip!("crun is not installed");
    }
    let scratch = Scratch::new("run");
    // A newer crun refuses machines with both versions of cgroups, whatever it is to run.
    let own = bundle_of_crun(&scratch, &busybox);
    let output = crun(&own);
    if !output.status.success() {
        skip!("crun runs nothing on this machine: {}", stderr(&output).trim());
    }
    let layer = Layer::new()
        .directory("proc")
        .directory("sys")
        .directory("dev")
        .entry(tar::EntryType::Regular, "bin/busybox", |header| header.set_mode(0o755), &busybox)
        .symlink("bin/sh", "busybox");
    let image = Image::new([layer])
        .with(json!({"Cmd": ["/bin/sh", "-c", "echo from inside; id -u"], "User": "7:8"}));
    let output = pull(&scratch, &image.layout(&scratch.join("layout")), &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let output = crun(&scratch.join("bundle"));
    let mut text = String::new();
    (&output.stdout[..]).read_to_string(&mut text).unwrap();
    assert_eq!(text, "from inside\n7\n", "{}", stderr(&output));
}

fn crun(bundle: &Path) -> Output {
    // crun 1.8 needs the v1 view of a hybrid machine; the group is its own.
    let id = format!("image-tool-{}", std::process::id());
    let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec crun run -b . \"$0\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, &id]).current_dir(bundle).output().unwrap()
}

/// A bundle that image-tool had no hand in.
fn bundle_of_crun(scratch: &Scratch, busybox: &[u8]) -> PathBuf {
    let bundle = scratch.join("own");
    fs::create_dir_all(bundle.join("rootfs/bin")).unwrap();
    let program = bundle.join("rootfs/bin/busybox");
    fs::write(&program, busybox).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let made = Command::new("crun").arg("spec").current_dir(&bundle).output().unwrap();
    assert!(made.status.success(), "{}", stderr(&made));
    let file = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["/bin/busybox", "true"]);
    fs::write(file, config.to_string()).unwrap();
    bundle
}
