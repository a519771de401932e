//! What the user sees meanwhile: bars, lines, JSON events or nothing.
//!
//! Bars and lines go to standard error. Standard output carries JSON events, if
//! they are asked for, and nothing else.

use std::io::{IsTerminal as _, Write as _, stderr, stdout};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::text::printable;

const BAR: &str = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}";

enum Output {
    Bar,
    Lines,
    Json,
    Quiet,
}

/// Tells the user; shared by all threads.
pub struct Progress {
    output: Output,
    bar: ProgressBar,
}

/// What has become of an image.
#[derive(Debug)]
pub struct Outcome {
    /// The digest of its manifest.
    pub digest: String,
    /// The bytes of its layers as they were downloaded.
    pub size: u64,
    /// The bytes they unpacked to.
    pub unpacked: u64,
    /// Where it is now.
    pub bundle: String,
}

impl Progress {
    /// JSON events, or nothing, or what suits standard error.
    pub fn new(json: bool, quiet: bool) -> Self {
        let output = match (json, quiet) {
            (true, _) => Output::Json,
            (_, true) => Output::Quiet,
            _ if stderr().is_terminal() => Output::Bar,
            _ => Output::Lines,
        };
        let target = match output {
            Output::Bar => ProgressDrawTarget::stderr(),
            _ => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template(BAR) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { output, bar }
    }

    /// The image was found: `size` bytes in `layers` layers.
    pub fn found(&self, reference: &str, digest: &str, layers: usize, size: u64) {
        let noun = if layers == 1 { "layer" } else { "layers" };
        let line = format!("{reference}: {digest}, {layers} {noun}, {size} bytes");
        let event = json!({"event": "image", "reference": reference, "digest": digest, "layers": layers, "size": size});
        self.tell(&line, &event);
        self.bar.set_message(format!("layer 1/{layers}"));
        self.bar.set_length(size);
    }

    /// `bytes` more have arrived.
    pub fn downloaded(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Layer `index` of `layers` is about to be unpacked.
    pub fn unpacking(&self, index: usize, layers: usize) {
        self.bar.set_message(format!("layer {}/{layers}", index + 1));
    }

    /// Layer `index` of `layers` is in the rootfs, and verified.
    pub fn unpacked(&self, index: usize, layers: usize, digest: &str) {
        match self.output {
            Output::Json => {
                self.event(&json!({"event": "layer", "index": index, "digest": digest}))
            }
            Output::Lines => line(&format!("layer {}/{layers}: {digest}", index + 1)),
            Output::Bar | Output::Quiet => {}
        }
    }

    /// Something that the user should know; shown even to the quiet.
    pub fn warning(&self, message: &str) {
        match self.output {
            Output::Json => self.event(&json!({"event": "warning", "message": message})),
            _ => self.bar.suspend(|| line(&format!("image-tool: warning: {message}"))),
        }
    }

    /// The bundle is there.
    pub fn done(&self, outcome: &Outcome) {
        self.bar.finish_and_clear();
        let Outcome { digest, size, unpacked, bundle } = outcome;
        let event = json!({"event": "result", "digest": digest, "size": size, "unpacked": unpacked, "bundle": bundle});
        self.tell(&format!("{bundle}: {digest}"), &event);
    }

    /// There is no bundle. The message itself is printed by main.
    pub fn failed(&self, message: &str) {
        self.bar.finish_and_clear();
        if let Output::Json = self.output {
            self.event(&json!({"event": "error", "message": message}));
        }
    }

    fn tell(&self, text: &str, event: &Value) {
        match self.output {
            Output::Bar => self.bar.suspend(|| line(text)),
            Output::Lines => line(text),
            Output::Json => self.event(event),
            Output::Quiet => {}
        }
    }

    fn event(&self, event: &Value) {
        // Whoever asked for events may have stopped listening; the pull goes on.
        let _ = writeln!(stdout().lock(), "{event}");
    }
}

fn line(text: &str) {
    let _ = writeln!(stderr().lock(), "{}", printable(text));
}
