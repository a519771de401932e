//! Buildah, which calls a runtime for each line that is run in a build.

use engines::podman::configure;
use engines::{Place, in_place};

/// Runs a test with what a line of Buildah needs to call the runtime.
fn with_buildah(test: impl Fn(&Place<'_>, &str) + Sync) {
    in_place(&["buildah", "iptables"], |place| {
        configure(place);
        // It does not ask containers.conf for a runtime's path.
        let runtime = integration::runtime().program.display();
        let options = format!("--runtime {runtime} --isolation oci");
        let group = format!("--cgroup-parent /{}", place.bed.name);
        // The first one leaves files and mounts that all later ones share.
        place.sh(&format!("buildah from --name first {group} alpine")).output.success();
        place.sh(&format!("buildah run {options} first true")).output.success();
        place.sh("buildah rm first").output.success();
        let before = place.inventory();
        test(place, &format!("{options} {group}"));
        place.sh("buildah rm --all").succeeds();
        place.claim_nothing_since(&before);
    });
}

#[test]
fn lines_are_run_in_a_container() {
    with_buildah(|place, options| {
        let (options, group) = options.split_once(" --cgroup-parent").unwrap();
        place.sh(&format!("buildah from --name one --cgroup-parent{group} alpine")).prints("one");
        let run = |line: &str| place.sh(&format!("buildah run {options} {line}"));
        run("one -- echo hello").prints("hello");
        run("one -- sh -c 'echo out; echo error >&2; exit 7'").exits(7).fails(7, "error");
        run("--env WORD=given --workingdir /tmp --user 1000 one -- sh -c 'echo $WORD $(pwd) $(id -u)'")
            .prints("given /tmp 1000");
        run("--volume /etc/hostname:/data:ro one -- sh -c 'cat /data > /dev/null && touch /data'")
            .exits(1);
        run("--cap-drop CAP_CHOWN one -- chown 1 /tmp").exits(1);
        run("--network none one -- ls /sys/class/net").prints("lo");
        run("one -- no-such-program").fails(1, "no-such-program");
        let line = format!("buildah run --terminal {options} one -- sh");
        let shell = place.on_terminal(&line).shows("# ").types("tty");
        shell.shows("/dev/pts/0").gets_size(24, 80).types("exit 3").ends(3);
        run("one -- sh -c 'echo built > /built'").succeeds();
        place.sh("buildah commit -q one made").succeeds();
        place.sh(&format!("buildah from --name two --cgroup-parent{group} made")).prints("two");
        run("two -- cat /built").prints("built");
    });
}

#[test]
fn images_are_built() {
    with_buildah(|place, options| {
        let context = place.bed.make_directory("context", 0o755);
        let context = context.display();
        place.write(&format!("{context}/file"), "from the context\n");
        place.write(
            &format!("{context}/Dockerfile"),
            "FROM alpine AS first\nCOPY file /file\nRUN cat /file > /copied\n\
             FROM alpine\nARG WORD=none\nENV WORD=$WORD\nCOPY --from=first /copied /copied\n\
             RUN echo built as $(id -un) with $WORD > /built\nUSER nobody\n\
             RUN id -un > /tmp/user\nRUN --mount=type=tmpfs,target=/scratch grep -q /scratch /proc/mounts\n\
             CMD cat /copied /built /tmp/user\n",
        );
        place
            .sh(&format!("buildah bud {options} -q --build-arg WORD=given -t built {context}"))
            .succeeds();
        place.sh("buildah from --name one built").succeeds();
        place
            .sh("buildah run --isolation chroot one -- cat /copied /built /tmp/user")
            .prints("from the context\nbuilt as root with given\nnobody");
        place.write(&format!("{context}/Dockerfile"), "FROM alpine\nRUN exit 3\n");
        place.sh(&format!("buildah bud {options} {context}")).fails(3, "exit status 3");
    });
}
