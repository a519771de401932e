//! A daemon for each test, which leaves nothing of its containers.

use engines::containerd::{Containerd, Release};
use engines::in_place;
use engines::pod::Pod;
use serde_json::json;

/// Runs a test with each release that is there.
#[track_caller]
pub fn with_containerd(test: impl Fn(&Containerd<'_>) + Sync) {
    for release in [Release::Debian, Release::Current] {
        with_daemon(release, false, |daemon| test(daemon));
    }
}

/// Runs a test of pods with one release.
#[track_caller]
pub fn with_pods(release: Release, test: impl Fn(&Containerd<'_>) + Sync) {
    with_daemon(release, true, test);
}

#[track_caller]
fn with_daemon(release: Release, has_pods: bool, test: impl Fn(&Containerd<'_>) + Sync) {
    in_place(release.programs(), |place| {
        if !release.is_built(place, has_pods) {
            return;
        }
        let daemon = Containerd::start(place, release, "");
        if has_pods {
            daemon.prepare_pods();
            // The first one leaves directories that all later ones share.
            let first = Pod::run(&daemon, "first-pod", &json!({}));
            first.start("first", &["true"], &json!({}));
            first.remove();
        }
        let before = place.inventory();
        test(&daemon);
        place.claim_nothing_since(&before);
    });
}
