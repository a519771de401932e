//! Kubernetes' own tests of the interface between it and containerd (critest): whatever
//! passes with runc passes with the runtime too.

use engines::containerd::Release;
use engines::{critest, runtime_name};

use crate::daemon::with_pods;

#[test]
fn what_passes_with_runc_passes_with_the_runtime() {
    with_pods(Release::Current, |daemon| critest::compare(daemon, runtime_name()));
}
