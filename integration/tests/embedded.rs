//! ferrun as a library in a process that stays.

use std::path::Path;
use std::time::Duration;

use integration::{Bed, Bundle, as_both, copy_program, in_views, runtime};
use serde_json::json;

/// Bundles by their ends.
fn bundles(bed: &Bed) -> Vec<Bundle> {
    let whole = || bed.bundle().sh("sleep 100");
    let bundles = vec![
        whole(),
        whole().with("/hooks/poststart", json!([{"path": "/bin/true"}])),
        whole()
            .mount("/odd", "none", "/", &["rbind", "size=1m"])
            .with("/hooks/poststop", json!([{"path": "/bin/false"}])),
        whole().mount("/data", "none", "/no/such/source", &["bind"]),
        bed.bundle().args(["/bin/nowhere"]),
        whole().with("/hooks/createRuntime", json!([{"path": "/bin/false"}])),
    ];
    for bundle in &bundles {
        bundle.save();
    }
    bundles
}

fn embeds(bed: &Bed, lives: u32) {
    if bed.is_peer("a library of ferrun's") {
        return;
    }
    // An ordinary user may not reach where it was built.
    let program = bed.make_directory("program", 0o755).join("embedder");
    copy_program(Path::new(env!("CARGO_BIN_EXE_embedder")), &program);
    let bundles = bundles(bed);
    let call = bed.program(&program).arg(runtime().for_others(&program.with_file_name("")));
    let call = call.arg(bed.root()).arg(lives.to_string()).patience(Duration::from_secs(300));
    let process = json!({"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
    let call = call.arg(bed.write("process.json", &process.to_string()));
    let paths = bundles.iter().map(|bundle| &bundle.path);
    let output = call.args(paths).output();
    let printed = output.success();
    println!("{printed}");
    // Each bundle has the end that it was made for. An ordinary user's has no cgroup.
    let whole = if bed.is_rootless() {
        "processes: Unsupported, the container has no cgroup"
    } else {
        "whole"
    };
    let ends = [
        whole,
        whole,
        whole,
        "create: Kernel, mounts[4].source",
        "create: Configuration, process.args[0]",
        "create: Hook, hooks.createRuntime[0]",
    ];
    for (bundle, end) in bundles.iter().zip(ends) {
        let name = bundle.path.file_name().unwrap_or_default().to_string_lossy();
        let start = format!(" {name}: ");
        let of_bundle: Vec<_> = printed.lines().filter(|line| line.contains(&start)).collect();
        assert!(matches!(*of_bundle, [only] if only.contains(&(start + end))), "{of_bundle:?}");
    }
    // What the command that creates has to say comes to the embedder, and what a call in its own
    // process has: one for each life of that bundle, or two, as every ID is asked for twice.
    for line in [
        "mounts[4].options: \"size=1m\" has no meaning on a bind mount",
        "hooks.poststop[0]: error running poststop hook #0: \"/bin/false\": exit status 1",
    ] {
        let warned = format!(" times: {line}");
        assert!(printed.lines().any(|line| line.ends_with(&warned)), "{line}");
    }
    assert_eq!(output.stderr, "", "a log was given");
}

#[test]
fn a_process_is_after_many_lives_what_it_was_before() {
    as_both(|bed| embeds(bed, 300));
}

#[test]
fn so_it_is_with_each_version_of_cgroups() {
    in_views(|bed| embeds(bed, 40));
}
