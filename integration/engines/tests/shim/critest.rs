//! Kubernetes' own tests of the interface between it and containerd (critest): whatever passes
//! with runc and its shim passes with ours too.

use engines::containerd::Release;
use engines::critest;
use engines::shim::Shim;

use crate::daemon::with_daemon;

#[test]
#[ignore = "takes some minutes"]
fn what_passes_with_runcs_shim_passes_with_ours() {
    for shim in Shim::tested() {
        with_daemon(Release::Current, shim, true, &|daemon| {
            critest::compare(daemon, shim.handler());
        });
    }
}
