//! Device nodes, and which devices a container may use.

use std::fs;

use integration::on_every_ground::as_both;
use integration::shared_too::as_user;
use integration::{Bundle, in_views, shared_too};
use serde_json::json;

#[test]
fn the_default_devices_and_links_are_there() {
    as_both(|bed| {
        let script = "for d in null zero full random urandom tty; do stat -c '%n %F %t:%T %a' /dev/$d; done; \
                      for l in fd stdin stdout stderr ptmx; do echo $l $(readlink /dev/$l); done; \
                      echo x > /dev/null && head -c 3 /dev/zero | wc -c";
        let output = bed.run(&bed.bundle().sh(script));
        let lines: Vec<_> = output.success().lines().collect();
        for (line, (name, numbers)) in lines.iter().zip([
            ("null", "1:3"),
            ("zero", "1:5"),
            ("full", "1:7"),
            ("random", "1:8"),
            ("urandom", "1:9"),
            ("tty", "5:0"),
        ]) {
            assert_eq!(
                *line,
                format!("/dev/{name} character special file {numbers} 666"),
                "{output}"
            );
        }
        assert_eq!(
            lines[6..10],
            [
                "fd /proc/self/fd",
                "stdin /proc/self/fd/0",
                "stdout /proc/self/fd/1",
                "stderr /proc/self/fd/2"
            ]
        );
        assert!(["ptmx pts/ptmx", "ptmx /dev/pts/ptmx"].contains(&lines[10]), "{output}");
        assert_eq!(lines[11], "3");
    });
}

#[test]
fn devices_of_each_type_are_made_with_mode_and_owner() {
    shared_too::as_root(|bed| {
        let bundle = bed
            .bundle()
            .with(
                "/linux/devices",
                json!([
                    {"path": "/dev/chr", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 5, "gid": 6},
                    {"path": "/dev/unbuffered", "type": "u", "major": 1, "minor": 5},
                    {"path": "/dev/deep/down/blk", "type": "b", "major": 7, "minor": 99, "fileMode": 0o600},
                    {"path": "/dev/pipe", "type": "p", "fileMode": 0o622},
                    {"path": "/srv/elsewhere", "type": "c", "major": 1, "minor": 7},
                ]),
            )
            .sh("stat -c '%n %F %t:%T %a %u:%g' /dev/chr /dev/unbuffered /dev/deep/down/blk /dev/pipe /srv/elsewhere");
        let output = bed.run(&bundle);
        let lines: Vec<_> = output.success().lines().collect();
        assert_eq!(lines[0], "/dev/chr character special file 1:3 640 5:6");
        assert!(lines[1].starts_with("/dev/unbuffered character special file 1:5"), "{output}");
        assert!(lines[2].starts_with("/dev/deep/down/blk block special file 7:63 600"), "{output}");
        assert!(lines[3].starts_with("/dev/pipe fifo 0:0 622"), "{output}");
        assert!(lines[4].starts_with("/srv/elsewhere character special file 1:7"), "{output}");
    });
}

#[test]
fn an_ordinary_users_container_has_the_hosts_devices_bound() {
    as_user(|bed| {
        if bed.is_peer("crun 1.8 fails at its mount namespace") {
            return;
        }
        let bundle = bed
            .bundle()
            .with(
                "/linux/devices",
                json!([{"path": "/dev/full2", "type": "c", "major": 1, "minor": 7}]),
            )
            .sh("stat -c %t:%T /dev/full2");
        let output = bed.run(&bundle);
        // A device whose node of the host has another name may be refused by name, but
        // not left out.
        if output.code == 0 {
            assert_eq!(output.success(), "1:7");
        } else {
            assert!(output.stderr.contains("/dev/full2"), "{output}");
        }
        bed.assert_nothing_left();
    });
}

#[test]
fn another_file_in_the_place_of_a_device_is_an_error() {
    shared_too::as_root(|bed| {
        if bed.is_peer("runc takes it away, crun leaves it") {
            return;
        }
        let device = json!([{"path": "/srv/device", "type": "c", "major": 1, "minor": 3}]);
        let bundle = bed.bundle().with("/linux/devices", device);
        bundle.write("/srv/device", "a file\n");
        let output = bed.run(&bundle);
        let message = output.failure(1);
        assert!(
            message.contains("linux.devices[0]") && message.contains("/srv/device"),
            "{output}"
        );
        let kept = fs::read_to_string(bundle.rootfs().join("srv/device")).unwrap();
        assert_eq!(kept, "a file\n");
        bed.assert_nothing_left();
    });
}

#[test]
fn a_device_that_is_there_already_is_taken() {
    shared_too::as_root(|bed| {
        let device = json!({"path": "/srv/device", "type": "c", "major": 1, "minor": 3});
        let bundle =
            bed.bundle().with("/linux/devices", json!([device])).sh("stat -c %t:%T /srv/device");
        for _ in 0..2 {
            assert_eq!(bed.run(&bundle).success(), "1:3");
        }
    });
}

/// A bundle that can make nodes and says which of them it can open.
fn opening(bundle: Bundle) -> Bundle {
    let script = "cd /tmp; mknod zero c 1 5; mknod full c 1 7; mknod kmsg c 1 11; mknod loop b 7 0; \
                  for d in $(find /tmp -type c -o -type b | sort -r); do d=${d#/tmp/}; \
                    (: < $d) 2>/dev/null && echo $d read; \
                    (: > $d) 2>/dev/null && echo $d written; done; \
                  (: > /dev/null) && echo null written";
    bundle.capable(&["CAP_MKNOD", "CAP_SYSLOG"]).sh(script)
}

#[test]
fn without_rules_the_default_devices_alone_can_be_used() {
    in_views(|bed| {
        if bed.is_peer("crun 1.8 allows all devices unless a rule denies them") {
            return;
        }
        let output = bed.run(&opening(bed.bundle()));
        let lines: Vec<_> = output.success().lines().collect();
        assert_eq!(
            lines,
            ["zero read", "zero written", "full read", "full written", "null written"],
            "{output}"
        );
    });
}

#[test]
fn a_tunnel_can_be_made_without_a_rule() {
    in_views(|bed| {
        if bed.is_peer("crun 1.8 allows all devices unless a rule denies them") {
            return;
        }
        let bundle = bed
            .bundle()
            .capable(&["CAP_MKNOD"])
            .sh("mknod /tmp/tun c 10 200; mknod /tmp/other c 10 1; : < /tmp/other; : < /tmp/tun");
        let refused = "Operation not permitted";
        let errors = bed.run(&bundle).stderr;
        // A kernel may have no such device, but nobody is refused.
        let of = |name: &str| errors.lines().any(|l| l.contains(name) && l.contains(refused));
        assert!(of("/tmp/other") && !of("/tmp/tun"), "{errors}");
    });
}

#[test]
fn rules_allow_and_deny_by_type_number_and_access() {
    in_views(|bed| {
        if bed.is_peer("crun 1.8 allows all devices unless a rule denies them") {
            return;
        }
        let rules = |list: serde_json::Value| {
            let output = bed.run(&opening(bed.bundle()).with("/linux/resources/devices", list));
            let lines = output.success().lines();
            lines
                .filter(|line| line.contains("kmsg") || line.contains("loop"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let deny = json!({"allow": false, "access": "rwm"});
        let none: [&str; 0] = [];
        assert_eq!(rules(json!([deny])), none);
        assert_eq!(
            rules(
                json!([deny, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rwm"}])
            ),
            ["kmsg read", "kmsg written"]
        );
        assert_eq!(
            rules(
                json!([deny, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"},
                {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "m"}])
            ),
            ["kmsg read"]
        );
        assert_eq!(
            rules(json!([deny, {"allow": true, "type": "c", "major": 1, "access": "rwm"}])),
            ["kmsg read", "kmsg written"]
        );
        // A list without a deny-all first still denies the rest.
        assert_eq!(
            rules(json!([{"allow": true, "type": "b", "major": 99, "minor": 0, "access": "rwm"}])),
            none
        );
        let all = rules(json!([{"allow": true, "access": "rwm"}]));
        assert!(all.contains(&"kmsg read".to_owned()), "{all:?}");
        if !bed.is_peer("runc 1.1 applies rules against rules its own way") {
            assert_eq!(
                rules(json!([{"allow": true, "access": "rwm"},
                    {"allow": false, "type": "c", "major": 1, "minor": 11, "access": "rwm"}]))
                .iter()
                .filter(|line| line.contains("kmsg"))
                .count(),
                0
            );
        }
    });
}

#[test]
fn the_right_to_make_nodes_can_be_taken_away() {
    in_views(|bed| {
        // Every peer allows mknod of anything by default; the words are runc's.
        let bundle = bed
            .bundle()
            .capable(&["CAP_MKNOD"])
            .with("/linux/resources/devices", json!([{"allow": false, "access": "rwm"}]))
            .sh("mknod /tmp/n c 1 3 && echo made; mknod /tmp/x c 99 1 && echo made too");
        let output = bed.run(&bundle);
        assert!(output.stdout.starts_with("made\n"), "{output}");
    });
}
