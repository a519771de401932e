//! Random lives (`src/lives`): each configuration is drawn, lived from create to delete, and
//! looked at, from inside for what was asked, and from outside for what is left or changed.
//!
//! | asked for | what may be drawn |
//! |---|---|
//! | namespaces | each new, the caller's, or joined; id maps, time offsets, names, sysctls |
//! | the program | user, groups, capabilities, no_new_privs, filter, umask, limits, oom score, scheduler, priority of I/O, memory policy, personality, directory, environment, terminal, processors |
//! | files | tmpfs, binds, trees, file systems of the kernel, their words; mappings; propagation; masks, read-only paths and root; devices, and what lies at their places |
//! | the rest | limits of the cgroup and their update, device rules, hooks, annotations, the way from create to delete |
//!
//! No mount namespace is joined: its mounts outlive the container.

use integration::{Bed, View, both_where_mounts_are_shared, in_views, in_views_as_user, lives};

/// Lives so many lives in a place.
fn live(bed: &Bed, count: u64) {
    if bed.is_peer("a life asks for much that runc 1.1 and crun 1.8 do not know") {
        return;
    }
    if !nix::unistd::getuid().is_root() {
        return bed.skip("needs root for the host's files");
    }
    // Version 1 can be delegated to nobody.
    if bed.is_rootless() && bed.view == View::V2 {
        bed.delegate();
    }
    lives::live(bed, count);
}

#[test]
fn roots_containers_are_what_was_asked_for_and_leave_nothing() {
    in_views(|bed| live(bed, 45));
}

#[test]
fn an_ordinary_users_containers_are_what_was_asked_for_and_leave_nothing() {
    in_views_as_user(|bed| live(bed, 35));
}

#[test]
fn containers_are_what_was_asked_for_and_leave_nothing_where_mounts_are_shared() {
    both_where_mounts_are_shared(|bed| live(bed, 30));
}

#[test]
#[ignore = "takes minutes"]
fn many_containers_of_root() {
    in_views(|bed| live(bed, 750));
}

#[test]
#[ignore = "takes minutes"]
fn many_containers_of_an_ordinary_user() {
    in_views_as_user(|bed| live(bed, 600));
}

#[test]
#[ignore = "takes minutes"]
fn many_containers_where_mounts_are_shared() {
    both_where_mounts_are_shared(|bed| live(bed, 475));
}
