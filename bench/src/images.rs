//! Pulling an image from a registry on loopback into a bundle: image-tool beside
//! skopeo with umoci. The images are made here.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::bed::{Launch, compile};
use crate::sample::{Sample, Summary};

/// What pulling one image cost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageRecord {
    /// `small` or `large`.
    pub image: String,
    /// MiB of files in it.
    pub size: usize,
    /// Files in it.
    pub files: usize,
    /// Who pulled it.
    pub tool: String,
    /// What it cost.
    pub summary: Summary,
}

/// Name, MiB, files: the first is of the size of Alpine.
const IMAGES: [(&str, usize, usize); 2] = [("small", 8, 500), ("large", 512, 25_000)];

/// A registry that ends with its value.
struct Registry {
    server: Child,
    address: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Pulls both images in turns. Everything happens in `directory`.
pub fn measure(image_tool: &Path, directory: &Path, rounds: usize) -> Result<Vec<ImageRecord>> {
    let directory = directory.join("images");
    fs::create_dir_all(&directory)?;
    let launcher = compile("launcher", &directory)?;
    let registry = serve(&directory)?;
    let mut records = Vec::new();
    for (name, size, files) in IMAGES {
        let reference = format!("{}/{name}:1", registry.address);
        publish(&directory, name, size, files, &reference)?;
        let bundle = directory.join("bundle");
        let layout = directory.join("pulled");
        let script = format!(
            "skopeo copy -q --src-tls-verify=false docker://{reference} oci:{layout}:1 && \
             umoci unpack --image {layout}:1 {bundle}",
            layout = layout.display(),
            bundle = bundle.display(),
        );
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let tools = [
            ("image-tool", vec![text(image_tool), "pull".into(), reference.clone(), text(&bundle)]),
            ("skopeo + umoci", vec!["/bin/sh".into(), "-c".into(), script]),
        ];
        let mut samples = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for ((_, command), samples) in tools.iter().zip(&mut samples) {
                samples.push(pull(&launcher, &directory, command)?);
                for made in [&bundle, &layout] {
                    if made.exists() {
                        fs::remove_dir_all(made)?;
                    }
                }
            }
        }
        for ((tool, _), samples) in tools.iter().zip(&samples) {
            let summary = Summary::of(samples).context("no rounds")?;
            let (image, tool) = (name.to_owned(), (*tool).to_owned());
            records.push(ImageRecord { image, size, files, tool, summary });
        }
    }
    Ok(records)
}

fn pull(launcher: &Path, directory: &Path, command: &[String]) -> Result<Sample> {
    let result = directory.join("result");
    let output = Command::new(launcher)
        .arg(&result)
        .arg(Launch::Time.word())
        .args(command)
        .stdin(Stdio::null())
        .output()
        .context("launcher")?;
    let (status, sample) = Sample::parse(&fs::read(&result).context("launcher")?)?;
    if status != 0 {
        bail!("{}: {}", command.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(sample)
}

fn serve(directory: &Path) -> Result<Registry> {
    // The port is free again when the listener is dropped.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let address = format!("127.0.0.1:{port}");
    let config = directory.join("registry.yml");
    let storage = directory.join("registry");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {storage:?}}}}}\n\
         http: {{addr: \"{address}\"}}\n"
    );
    fs::write(&config, text)?;
    let server = Command::new("docker-registry")
        .arg("serve")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("docker-registry (package docker-registry)")?;
    let registry = Registry { server, address };
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect(&registry.address).is_err() {
        if Instant::now() > deadline {
            bail!("docker-registry does not listen on {}", registry.address);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(registry)
}

/// Makes an image of one layer and pushes it.
fn publish(directory: &Path, name: &str, size: usize, files: usize, reference: &str) -> Result<()> {
    let tree = directory.join("tree");
    let layout = directory.join(format!("layout-{name}"));
    write_tree(&tree, size, files)?;
    let archive = directory.join("layer.tar");
    let image = format!("{}:1", layout.display());
    let [layout_text, tree_text, archive_text] =
        [&layout, &tree, &archive].map(|path| path.to_string_lossy());
    run("tar", &["-C", &tree_text, "-cf", &archive_text, "."])?;
    run("umoci", &["init", "--layout", &layout_text])?;
    run("umoci", &["new", "--image", &image])?;
    // `umoci insert` would leave the end of the archive out.
    run("umoci", &["raw", "add-layer", "--image", &image, &archive_text])?;
    let (from, to) = (format!("oci:{image}"), format!("docker://{reference}"));
    run("skopeo", &["copy", "-q", "--dest-tls-verify=false", &from, &to])?;
    fs::remove_dir_all(&tree)?;
    fs::remove_file(&archive)?;
    fs::remove_dir_all(&layout).map_err(Into::into)
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).output().with_context(|| program.to_owned())?;
    if !output.status.success() {
        bail!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Files of one size in directories of 100. Half of what is in them is noise, so
/// that they compress about as programs do.
fn write_tree(tree: &Path, size: usize, files: usize) -> Result<()> {
    let length = size * 1024 * 1024 / files;
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    let mut content = Vec::with_capacity(length + 16);
    for number in 0..files {
        let directory: PathBuf = tree.join(format!("{:04}", number / 100));
        if number % 100 == 0 {
            fs::create_dir_all(&directory)?;
        }
        content.clear();
        while content.len() < length {
            // xorshift64.
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            content.extend(noise.to_le_bytes());
            content.extend(b"a word, ");
        }
        content.truncate(length);
        fs::write(directory.join(format!("{number:06}")), &content)?;
    }
    Ok(())
}
