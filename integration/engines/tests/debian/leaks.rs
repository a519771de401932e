//! Many containers, and many programs in one: nothing goes wrong, and nothing is left.

use engines::docker::{Docker, PROGRAMS};
use engines::in_place;
use serde_json::json;

/// How many are at work at once.
const AT_ONCE: u32 = 20;

#[test]
fn containers_one_after_another() {
    in_place(&PROGRAMS, |place| {
        let docker = Docker::start(place, &json!({}));
        docker.sh("docker pull -q alpine").succeeds();
        let before = place.inventory();
        for _ in 0..200 {
            assert_eq!(docker.sh("docker run --rm alpine true").output.success(), "");
        }
        place.claim_nothing_since(&before);
    });
}

#[test]
fn containers_many_at_once() {
    in_place(&PROGRAMS, |place| {
        let docker = Docker::start(place, &json!({}));
        docker.sh("docker pull -q alpine").succeeds();
        let before = place.inventory();
        for _ in 0..2 {
            let line = "docker run --rm alpine sh -c 'echo $$; sleep 1'";
            let all: Vec<_> = (0..AT_ONCE).map(|_| place.begin(line)).collect();
            for running in all {
                assert_eq!(running.wait().success(), "1");
            }
        }
        place.claim_nothing_since(&before);
    });
}

#[test]
fn programs_in_one_container() {
    in_place(&PROGRAMS, |place| {
        let docker = Docker::start(place, &json!({}));
        docker.sh("docker run -d --name one alpine sleep 1000").succeeds();
        let before = place.inventory();
        for number in 0..460 {
            let answer = docker.sh(&format!("docker exec one echo {number}"));
            assert_eq!(answer.output.success(), number.to_string());
        }
        for _ in 0..2 {
            let all: Vec<_> =
                (0..AT_ONCE).map(|_| place.begin("docker exec one echo at once")).collect();
            for running in all {
                assert_eq!(running.wait().success(), "at once");
            }
        }
        place.claim_nothing_since(&before);
        docker.sh("docker exec one sh -c 'ls /proc | grep -c ^[0-9]'").prints("4");
        docker.clear();
    });
}
