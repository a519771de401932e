//! A container that was created, and is deleted whatever becomes of the test.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::{Bed, Call, Output, eventually};

/// A container of a bed.
#[derive(Debug)]
pub struct Container<'bed> {
    bed: &'bed Bed,
    /// Its ID.
    pub id: String,
    /// Where what its program prints goes.
    stdout: PathBuf,
    /// What `create` has complained about.
    pub warnings: String,
    deleted: bool,
}

impl<'bed> Container<'bed> {
    /// Creates the container `id` by `call`.
    #[track_caller]
    pub fn create(bed: &'bed Bed, id: &str, call: Call) -> Self {
        let running = call.spawn();
        let stdout = running.stdout.clone();
        let output = running.wait();
        output.success();
        Self { bed, id: id.to_owned(), stdout, warnings: output.stderr, deleted: false }
    }

    /// Calls a verb on it.
    #[track_caller]
    pub fn call(&self, verb: &str) -> Output {
        self.bed.runtime([verb, &self.id])
    }

    /// Starts it.
    #[track_caller]
    pub fn start(&self) {
        self.call("start").success();
    }

    /// What `state` prints.
    #[track_caller]
    pub fn state(&self) -> Value {
        let output = self.call("state");
        serde_json::from_str(output.success()).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    /// Its status.
    #[track_caller]
    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap_or_default().to_owned()
    }

    /// Its init process.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        self.state()["pid"].as_i64().expect("a pid") as i32
    }

    /// Waits for its end. Returns what its program has printed.
    #[track_caller]
    pub fn ended(&self) -> String {
        eventually("the container stops", || self.status() == "stopped");
        self.printed()
    }

    /// What its program has printed so far.
    pub fn printed(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    /// Waits until its program has printed this.
    #[track_caller]
    pub fn prints(&self, text: &str) {
        eventually(&format!("the program prints {text:?}"), || self.printed().contains(text));
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn kill(&self, signal: &str) {
        self.bed.runtime(["kill", &self.id, signal]).success();
    }

    /// A call of `exec` with these options.
    pub fn exec_call(&self, options: &[&str], args: &[&str]) -> Call {
        self.bed.call().arg("exec").args(options).arg(&self.id).args(args)
    }

    /// Runs a program in it.
    #[track_caller]
    pub fn exec(&self, args: &[&str]) -> Output {
        self.exec_call(&[], args).output()
    }

    /// Runs a shell script in it.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Output {
        self.exec(&["/bin/sh", "-c", script])
    }

    /// Deletes it, by force.
    #[track_caller]
    pub fn delete(mut self) {
        self.deleted = true;
        self.bed.runtime(["delete", "--force", &self.id]).success();
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if self.deleted {
            return;
        }
        let output = self.bed.runtime(["delete", "--force", &self.id]);
        if output.code != 0 {
            self.bed.complain(format!("delete --force: {output}"));
        }
    }
}
