//! Where stdin comes from, and stdout and stderr go to.

use std::fs;

use crate::daemon::with_shims;

#[test]
fn pipes_carry_all_to_their_end() {
    with_shims(|daemon| {
        let cat = daemon.line(&daemon.run_line("--rm", "one cat"));
        // `ctr` misses an end that comes before the task is there.
        let stdin = "(printf 'a\\nb\\n'; sleep 2)";
        daemon.place.sh(&format!("{stdin} | {cat}")).prints("a\nb");
        // More than a pipe holds, in both directions.
        let zeros = "head -c 20000000 /dev/zero";
        daemon.place.sh(&format!("{zeros} | {cat} | wc -c")).prints("20000000");
        let both = "sh -c 'head -c 3000000 /dev/zero >&2; head -c 5000000 /dev/zero'";
        let line = daemon.line(&daemon.run_line("--rm", &format!("two {both}")));
        let error = daemon.place.bed.directory.join("stderr");
        daemon.place.sh(&format!("{line} 2>{} | wc -c", error.display())).prints("5000000");
        // `ctr` has a word of its own to say there.
        let length = fs::read(&error).unwrap().iter().filter(|byte| **byte == 0).count();
        daemon.place.claim(&format!("stderr is whole, not {length}"), length == 3_000_000);

        daemon.run("-d", "three sleep 1000").succeeds();
        let exec = daemon.line("task exec --exec-id cat three cat");
        daemon.place.sh(&format!("{zeros} | {exec} | wc -c")).prints("20000000");
        // A child that keeps the pipe holds nobody up for long.
        daemon.exec("three", "sh -c 'sleep 3 & echo done'").prints("done");
        daemon.remove("three");
    });
}

#[test]
fn a_file_and_a_program_take_what_is_printed() {
    with_shims(|daemon| {
        let bed = daemon.place.bed;
        let file = bed.directory.join("logs/deep/out");
        let speak = "sh -c 'echo out; echo err >&2'";
        let text = || fs::read_to_string(&file).unwrap_or_default();
        for times in 1..=2 {
            let options = format!("-d --log-uri file://{}", file.display());
            daemon.run(&options, &format!("one {speak}")).succeeds();
            daemon.becomes("one", "STOPPED");
            daemon.place.eventually("both are in the file", || {
                text().matches("out").count() == times && text().matches("err").count() == times
            });
            daemon.remove("one");
        }

        let told = bed.directory.join("told");
        let logger = bed.script(
            "logger",
            &format!(
                "trap '' TERM; exec >>{} 2>&1\necho \"args $*\"; echo \"$CONTAINER_NAMESPACE $CONTAINER_ID\"\n\
                 env | grep -c -v -e ^CONTAINER_ -e ^PWD= -e ^SHLVL= -e ^_=\n\
                 exec 5>&-\nsed -u 's/^/3 /' <&3 & sed -u 's/^/4 /' <&4; wait\n",
                told.display()
            ),
        );
        let options = format!("-d --log-uri binary://{}?key=value", logger.display());
        daemon.run(&options, &format!("two {speak}")).succeeds();
        let text = || fs::read_to_string(&told).unwrap_or_default();
        let has = |line: &str| text().lines().any(|told| told == line);
        for line in ["args key value", &format!("{} two", bed.name), "0", "3 out", "4 err"] {
            daemon.place.eventually(&format!("{line:?} was told"), || has(line));
        }
        daemon.becomes("two", "STOPPED");
        daemon.remove("two");
    });
}

#[test]
fn nobody_need_read_and_who_comes_later_reads_on() {
    with_shims(|daemon| {
        daemon.run("-d --null-io", "one sh -c 'yes | head -c 10000000; exit 4'").succeeds();
        daemon.becomes("one", "STOPPED");
        daemon.remove_ended("one", 4);

        daemon.run("-d", "two sh -c 'while :; do echo tick; sleep 0.2; done'").succeeds();
        for _ in 0..2 {
            let line = daemon.line("task attach two");
            let attached = daemon.place.begin(&format!("exec timeout -s KILL 5 {line}"));
            let told = || attached.printed().matches("tick").count() > 3;
            daemon.place.eventually("it is heard", told);
            attached.wait();
            daemon.place.claim("it runs on", daemon.status("two") == "RUNNING");
        }
        daemon.remove("two");
    });
}
