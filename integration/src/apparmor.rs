//! Profiles of AppArmor that tests load, by apparmor_parser(8) of Debian's package apparmor.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::{Bed, as_root};

/// Profiles that are loaded, and taken out again.
#[derive(Debug)]
pub struct Profiles {
    /// Refuses /etc/secret.
    pub confined: String,
    /// Refuses nothing.
    pub open: String,
    text: String,
}

impl Profiles {
    fn load(bed: &Bed) -> Self {
        let [confined, open] = ["confined", "open"].map(|kind| format!("{}-{kind}", bed.name));
        // A container's files are none of the host's: their paths are relative to its root.
        let profile = |name: &str, rules: &str| {
            format!(
                "profile {name} flags=(attach_disconnected,mediate_deleted) {{ \
                 file, capability, network, mount, umount, signal, ptrace, unix, {rules} }}\n"
            )
        };
        let text = profile(&confined, "deny /etc/secret rw,") + &profile(&open, "");
        parse("--add", &text);
        Self { confined, open, text }
    }
}

impl Drop for Profiles {
    fn drop(&mut self) {
        parse("--remove", &self.text);
    }
}

fn parse(verb: &str, profiles: &str) {
    let mut parser = Command::new("apparmor_parser");
    let mut parser = parser
        .args([verb, "--skip-cache", "--quiet"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("apparmor_parser");
    let mut stdin = parser.stdin.take().expect("its stdin");
    stdin.write_all(profiles.as_bytes()).expect("profiles");
    drop(stdin);
    assert!(
        parser.wait().expect("apparmor_parser").success(),
        "apparmor_parser {verb}:\n{profiles}"
    );
}

/// Runs the test where profiles can be had, and says so elsewhere.
pub fn with_profiles(test: impl Fn(&Bed, &Profiles) + Sync) {
    as_root(|bed| {
        let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        if !enabled.is_ok_and(|text| text.starts_with('Y')) {
            return bed.skip("this kernel has no AppArmor, or it is switched off");
        }
        if Command::new("apparmor_parser").arg("--version").output().is_err() {
            return bed.skip("apparmor_parser is missing");
        }
        test(bed, &Profiles::load(bed));
    });
}
