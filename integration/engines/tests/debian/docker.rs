//! Docker, from the tutorials that most people start with to what they find later.

use engines::docker::{Docker, PROGRAMS};
use engines::in_place;
use serde_json::json;

/// Runs a test with a daemon, and leaves nothing of its containers.
fn with_docker(test: impl Fn(&Docker<'_>) + Sync) {
    in_place(&PROGRAMS, |place| {
        let docker = Docker::start(place, &json!({}));
        let before = place.inventory();
        test(&docker);
        docker.clear();
        place.claim_nothing_since(&before);
    });
}

#[test]
fn the_tutorials() {
    with_docker(|docker| {
        docker.sh("docker run hello-world").mentions("Hello from a container");
    });
}
