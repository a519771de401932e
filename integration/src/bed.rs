//! Where a test runs: a view of the cgroup hierarchies, a caller, and a directory
//! of its own.
//!
//! Each bed has a thread with a private mount namespace, so that the machine's own
//! mounts stay as they are whatever a test or the runtime does.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use crate::{Bundle, Call, Container, Kind, Output, bundle, leftovers, runtime};

const CGROUPS: &str = "/sys/fs/cgroup";
/// An id that no user of a machine has.
const STRANGER: u32 = 12_345;

/// Which cgroup hierarchies there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Version 1 with its controllers, and version 2 beside it.
    Hybrid,
    /// Version 1 alone.
    V1,
    /// Version 2 alone.
    V2,
}

/// Who calls the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// The machine's root.
    Root,
    /// An ordinary user with this user and group id.
    User(u32),
}

/// How the machine's mounts are, and what containers are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// No mount has a peer.
    Private,
    /// All mounts are shared with whoever gets a copy: `/`, and what lies below it.
    Shared,
    /// The same, and root's containers have a user namespace.
    Inside,
}

impl View {
    /// What this machine has, without anything done to it.
    pub fn of_the_machine() -> Self {
        let is_dir = |path: &str| Path::new(CGROUPS).join(path).is_dir();
        if Path::new(CGROUPS).join("cgroup.controllers").exists() {
            Self::V2
        } else if is_dir("unified") {
            Self::Hybrid
        } else {
            Self::V1
        }
    }

    /// Makes it so in this thread's mount namespace.
    fn enter(self) -> Result<(), String> {
        match (Self::of_the_machine(), self) {
            (machine, view) if machine == view => Ok(()),
            (Self::Hybrid, Self::V1) => detach("/sys/fs/cgroup/unified"),
            (_, Self::V2) => {
                detach(CGROUPS)?;
                mount(None::<&str>, CGROUPS, Some("cgroup2"), MsFlags::empty(), None::<&str>)
                    .map_err(|errno| format!("cgroup2 cannot be mounted: {errno}"))
            }
            (machine, _) => Err(format!("the machine has {machine:?}")),
        }
    }
}

fn detach(path: &str) -> Result<(), String> {
    umount2(path, MntFlags::MNT_DETACH).map_err(|errno| format!("umount {path}: {errno}"))
}

impl Caller {
    /// The ordinary user of the tests: a stranger, or whoever runs them.
    pub fn user() -> Self {
        match nix::unistd::getuid() {
            uid if uid.is_root() => Self::User(STRANGER),
            uid => Self::User(uid.as_raw()),
        }
    }
}

/// Where and as whom a test runs.
type Place = (View, Caller, Ground);

/// Runs a test as root, in the view that the runtime is at home in.
#[track_caller]
pub fn as_root<F: Fn(&Bed) + Sync>(test: F) {
    run(&private(&[Caller::Root]), test);
}

/// Runs a test as an ordinary user.
#[track_caller]
pub fn as_user<F: Fn(&Bed) + Sync>(test: F) {
    run(&private(&[Caller::user()]), test);
}

/// Runs a test as root and as an ordinary user.
#[track_caller]
pub fn as_both<F: Fn(&Bed) + Sync>(test: F) {
    run(&private(&[Caller::Root, Caller::user()]), test);
}

/// Runs a test as root in every view.
#[track_caller]
pub fn in_views<F: Fn(&Bed) + Sync>(test: F) {
    run(&private_in_views(&[Caller::Root]), test);
}

/// Runs a test as an ordinary user in every view.
#[track_caller]
pub fn in_views_as_user<F: Fn(&Bed) + Sync>(test: F) {
    run(&private_in_views(&[Caller::user()]), test);
}

/// Runs a test in every view, as root and as an ordinary user.
#[track_caller]
pub fn everywhere<F: Fn(&Bed) + Sync>(test: F) {
    run(&private_in_views(&[Caller::Root, Caller::user()]), test);
}

/// Runs a test as root where version 2 is alone.
#[track_caller]
pub(crate) fn where_version_2_is_alone<F: Fn(&Bed) + Sync>(test: F) {
    let places = views().filter(|view| *view == View::V2);
    run(&places.map(|view| (view, Caller::Root, Ground::Private)).collect::<Vec<_>>(), test);
}

/// Runs a test as root where all mounts are shared, as systemd makes them on nearly every
/// host.
#[track_caller]
pub fn where_mounts_are_shared<F: Fn(&Bed) + Sync>(test: F) {
    run(&[(runtime().usual_view(), Caller::Root, Ground::Shared)], test);
}

/// Runs a test as root and as an ordinary user where all mounts are shared.
#[track_caller]
pub fn both_where_mounts_are_shared<F: Fn(&Bed) + Sync>(test: F) {
    let callers = [Caller::Root, Caller::user()];
    run(&callers.map(|caller| (runtime().usual_view(), caller, Ground::Shared)), test);
}

/// The same functions for tests about mounts: each runs a test once more, in the usual
/// view, where all mounts are shared.
pub mod shared_too {
    use super::{Bed, Caller, Ground, private, private_in_views, run_also};

    const GROUNDS: [Ground; 1] = [Ground::Shared];

    /// See [`super::as_root`].
    #[track_caller]
    pub fn as_root<F: Fn(&Bed) + Sync>(test: F) {
        run_also(private(&[Caller::Root]), &GROUNDS, test);
    }

    /// See [`super::as_user`].
    #[track_caller]
    pub fn as_user<F: Fn(&Bed) + Sync>(test: F) {
        run_also(private(&[Caller::user()]), &GROUNDS, test);
    }

    /// See [`super::as_both`].
    #[track_caller]
    pub fn as_both<F: Fn(&Bed) + Sync>(test: F) {
        run_also(private(&[Caller::Root, Caller::user()]), &GROUNDS, test);
    }

    /// See [`super::in_views`].
    #[track_caller]
    pub fn in_views<F: Fn(&Bed) + Sync>(test: F) {
        run_also(private_in_views(&[Caller::Root]), &GROUNDS, test);
    }
}

/// The same functions once more: each runs a test on every ground.
pub mod on_every_ground {
    use super::{Bed, Caller, Ground, private, private_in_views, run_also};

    const GROUNDS: [Ground; 2] = [Ground::Shared, Ground::Inside];

    /// See [`super::as_root`].
    #[track_caller]
    pub fn as_root<F: Fn(&Bed) + Sync>(test: F) {
        run_also(private(&[Caller::Root]), &GROUNDS, test);
    }

    /// See [`super::as_both`].
    #[track_caller]
    pub fn as_both<F: Fn(&Bed) + Sync>(test: F) {
        run_also(private(&[Caller::Root, Caller::user()]), &GROUNDS, test);
    }

    /// See [`super::in_views`].
    #[track_caller]
    pub fn in_views<F: Fn(&Bed) + Sync>(test: F) {
        run_also(private_in_views(&[Caller::Root]), &GROUNDS, test);
    }
}

/// Runs a test in these places, and in the usual view on other grounds.
#[track_caller]
fn run_also<F: Fn(&Bed) + Sync>(mut places: Vec<Place>, grounds: &[Ground], test: F) {
    let callers = [Caller::Root, Caller::user()];
    let callers = callers.into_iter().filter(|who| places.iter().any(|place| place.1 == *who));
    let callers: Vec<_> = callers.collect();
    for &ground in grounds {
        let who = callers.iter().filter(|who| ground != Ground::Inside || **who == Caller::Root);
        places.extend(who.map(|who| (runtime().usual_view(), *who, ground)));
    }
    run(&places, test);
}

fn private(callers: &[Caller]) -> Vec<Place> {
    let view = runtime().usual_view();
    callers.iter().map(|caller| (view, *caller, Ground::Private)).collect()
}

fn private_in_views(callers: &[Caller]) -> Vec<Place> {
    let of = |view| callers.iter().map(move |caller| (view, *caller, Ground::Private));
    views().flat_map(of).collect()
}

/// All views, or those of `$VIEWS`, such as `V1,V2`: a machine of version 2 has no others.
fn views() -> impl Iterator<Item = View> {
    let asked = std::env::var("VIEWS").ok();
    [View::Hybrid, View::V1, View::V2].into_iter().filter(move |view| {
        let name = format!("{view:?}");
        asked.as_ref().is_none_or(|asked| asked.split(',').any(|asked| asked == name))
    })
}

/// Runs a test as root in every view that has these controllers, by the names that
/// version 2 has for them, and says so of the others.
#[track_caller]
pub fn with_controllers<F: Fn(&Bed) + Sync>(names: &[&str], test: F) {
    in_views(|bed| match names.iter().find(|name| !bed.has_controller(name)) {
        Some(name) => bed.skip(&format!("no {name} controller is mounted")),
        None => test(bed),
    });
}

/// Runs a test as root on the machine itself, whose files and services it may change: one that
/// is thrown away afterwards, which `$SPARE_MACHINE` says.
#[track_caller]
pub fn on_a_spare_machine<F: Fn(&Bed)>(test: F) {
    let (name, view) = (name_of::<F>(), View::of_the_machine());
    if std::env::var_os("SPARE_MACHINE").is_none() {
        return skip(name, "a machine to throw away", "this is none");
    }
    run_here(Bed::new(name, view, Caller::Root, Ground::Shared), test);
}

/// The function that holds the closure, also where another one of the test's own passes it on:
/// crate::between<crate::the_test::{{closure}}>::{{closure}}.
fn name_of<F>() -> &'static str {
    let name = std::any::type_name::<F>().split("::{{closure}}").next().unwrap_or_default();
    name.rsplit('<').next().unwrap_or_default()
}

fn run<F: Fn(&Bed) + Sync>(places: &[Place], test: F) {
    let name = name_of::<F>();
    for &(view, caller, ground) in places {
        eprintln!("{name}: {view:?}, {caller:?}, {ground:?}");
        if let Err(reason) = can_be(view, caller, ground) {
            skip(name, &format!("{view:?}, {caller:?}"), reason);
            continue;
        }
        let in_thread = || match prepare(view, ground) {
            Ok(()) => run_here(Bed::new(name, view, caller, ground), &test),
            Err(reason) => skip(name, &format!("{view:?}"), &reason),
        };
        // A thread of its own has mounts and a working directory of its own.
        let ended = std::thread::scope(|scope| scope.spawn(in_thread).join());
        if let Err(panic) = ended {
            resume_unwind(panic);
        }
    }
}

fn run_here(bed: Bed, test: impl Fn(&Bed)) {
    let tested = catch_unwind(AssertUnwindSafe(|| test(&bed)));
    let complaints = bed.clear();
    match tested {
        Ok(()) => assert!(complaints.is_empty(), "left behind: {complaints:#?}"),
        Err(panic) => {
            eprintln!("left behind after the failure: {complaints:#?}");
            resume_unwind(panic);
        }
    }
}

fn can_be(view: View, caller: Caller, ground: Ground) -> Result<(), &'static str> {
    if !nix::unistd::getuid().is_root() {
        if caller == Caller::Root {
            return Err("needs root");
        }
        if view != View::of_the_machine() {
            return Err("needs root to change what is mounted");
        }
        if ground != Ground::Private {
            return Err("needs root to share mounts");
        }
    }
    match runtime().kind {
        Kind::Runc | Kind::Crun if ground == Ground::Inside => {
            Err("runc 1.1 and crun 1.8 serve user namespaces in many other ways")
        }
        Kind::Crun if view != View::V1 => Err("this crun serves cgroup v1 alone"),
        _ => Ok(()),
    }
}

/// Gives the calling thread a mount namespace of its own, with the view. Nothing in it is
/// the peer of anything of the machine's.
fn prepare(view: View, ground: Ground) -> Result<(), String> {
    if !nix::unistd::getuid().is_root() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
        .map_err(|errno| format!("unshare: {errno}"))?;
    let change = |kind| {
        mount(None::<&str>, "/", None::<&str>, kind | MsFlags::MS_REC, None::<&str>)
            .map_err(|errno| format!("{kind:?}: {errno}"))
    };
    change(MsFlags::MS_PRIVATE)?;
    view.enter()?;
    if ground == Ground::Private { Ok(()) } else { change(MsFlags::MS_SHARED) }
}

/// When this process first asked, in microseconds that wrap. Test programs that run side
/// by side may well have the same pid, each in a namespace of its own.
fn first_use() -> u32 {
    static FIRST_USE: OnceLock<u32> = OnceLock::new();
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_micros() as u32;
    *FIRST_USE.get_or_init(now)
}

/// Says that a case of a test was not tested. The harness of cargo keeps what `println!`
/// prints to itself, so this goes to stderr another way.
fn skip(name: &str, case: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIP: {name} ({case}): {reason}");
}

/// What a test has to itself.
#[derive(Debug)]
pub struct Bed {
    /// The cgroup hierarchies that are mounted.
    pub view: View,
    /// Who calls the runtime.
    pub caller: Caller,
    /// How the machine's mounts are.
    pub ground: Ground,
    /// A name that nothing else on the machine has: of the bed's directory, and of
    /// the cgroup above all of its containers' cgroups.
    pub name: String,
    /// Where all its files are.
    pub directory: PathBuf,
    /// The name of the test.
    pub test: String,
    count: AtomicU32,
    delegated: AtomicBool,
    complaints: Mutex<Vec<String>>,
}

impl Bed {
    fn new(test: &str, view: View, caller: Caller, ground: Ground) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ferrun-test-{:08x}-{number}", first_use());
        let directory = std::env::temp_dir().join(&name);
        fs::DirBuilder::new().mode(0o755).create(&directory).expect("a temporary directory");
        let bed = Self {
            view,
            caller,
            ground,
            name,
            directory,
            test: test.to_owned(),
            count: AtomicU32::new(0),
            delegated: AtomicBool::new(false),
            complaints: Mutex::default(),
        };
        bed.make_directory("root", 0o700);
        bed.make_directory("output", 0o755);
        bed
    }

    /// The caller's id, where he is not the test's own user.
    pub fn user(&self) -> Option<u32> {
        match self.caller {
            Caller::User(id) if nix::unistd::getuid().is_root() => Some(id),
            _ => None,
        }
    }

    /// Whether the runtime is called by an ordinary user.
    pub fn is_rootless(&self) -> bool {
        self.caller != Caller::Root
    }

    /// Whether the runtime is one that differs: those that the reason names, or all but
    /// ferrun where it names none. Then what follows is left out.
    pub fn is_peer(&self, reason: &str) -> bool {
        let named = |name: &str| reason.contains(name);
        let differs = match runtime().kind {
            Kind::Ferrun => false,
            Kind::Runc => named("runc") || !named("crun"),
            Kind::Crun => named("crun") || !named("runc"),
            Kind::Other => true,
        };
        if differs {
            self.skip(reason);
        }
        differs
    }

    /// Whether the container has a user namespace that root has given it, so that what
    /// follows, which cannot be there for this reason, is left out.
    pub fn is_inside(&self, reason: &str) -> bool {
        let inside = self.ground == Ground::Inside;
        if inside {
            self.skip(reason);
        }
        inside
    }

    /// Says that this, or the rest of it, was not tested here.
    pub fn skip(&self, reason: &str) {
        skip(&self.test, &format!("{:?}, {:?}, {:?}", self.view, self.caller, self.ground), reason);
    }

    /// Whether a controller is mounted, by the name that version 2 has for it.
    pub fn has_controller(&self, name: &str) -> bool {
        let root = Path::new(CGROUPS);
        let names = |file: &str| {
            fs::read_to_string(root.join(file))
                .is_ok_and(|names| names.split_whitespace().any(|found| found == name))
        };
        // To a container that these tests may run in, its own group is the root, and no group
        // that has processes hands on what it has not handed on before. The real root has no type.
        let hands_on = || {
            let busy =
                fs::read_to_string(root.join("cgroup.procs")).is_ok_and(|ids| !ids.is_empty());
            names("cgroup.subtree_control") || !(root.join("cgroup.type").exists() && busy)
        };
        match (self.view, name) {
            (View::V2, _) => names("cgroup.controllers") && hands_on(),
            (_, "io") => root.join("blkio").is_dir(),
            _ => root.join(name).is_dir(),
        }
    }

    /// The first where version 1 has the controllers that limit, else the second.
    pub fn by_version<T>(&self, one: T, two: T) -> T {
        if self.view == View::V2 { two } else { one }
    }

    /// Makes a directory that belongs to the caller.
    pub fn make_directory(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.directory.join(name);
        fs::DirBuilder::new().mode(0o700).create(&path).expect("a directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
        self.give(&path);
        path
    }

    /// Writes a file that belongs to the caller.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.join(name);
        fs::write(&path, text).expect("a file");
        self.give(&path);
        path
    }

    /// Writes a script that can be run.
    pub fn script(&self, name: &str, lines: &str) -> PathBuf {
        let path = self.write(name, &format!("#!/bin/sh\n{lines}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
        path
    }

    fn give(&self, path: &Path) {
        if let Some(id) = self.user() {
            chown(path, Some(id), Some(id)).expect("chown");
        }
    }

    /// A number that this bed has not used yet.
    pub fn next(&self) -> u32 {
        self.count.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Where the runtime remembers the containers of this bed.
    pub fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// A new bundle with the configuration that tests start from.
    pub fn bundle(&self) -> Bundle {
        let number = self.next();
        // Never empty or relative: runc and crun would place it below the cgroup of
        // whoever runs the tests.
        let group = format!("/{}/{number}", self.name);
        let bundle = self.bundle_of(bundle::config(self.caller, &group));
        if self.ground == Ground::Inside {
            return bundle.in_user_namespace(65_536);
        }
        // They take a path that an ordinary user cannot use for an error.
        let peer = runtime().kind != Kind::Ferrun;
        if peer && self.is_rootless() { bundle.without("/linux/cgroupsPath") } else { bundle }
    }

    /// A new bundle with any configuration.
    pub fn bundle_of(&self, config: Value) -> Bundle {
        Bundle::new(self, self.directory.join(format!("bundle-{}", self.next())), config)
    }

    /// A call of the runtime, with the global options that it always gets.
    pub fn call(&self) -> Call {
        self.bare_call().arg("--root").arg(self.root())
    }

    /// A call of the runtime without any option.
    pub fn bare_call(&self) -> Call {
        self.program(&runtime().for_others(&self.directory))
    }

    /// A call of any program, as the caller.
    pub fn program(&self, program: &Path) -> Call {
        let call = Call::new(program, self.user(), &self.directory.join("output"), self.next());
        // Where delegation is given, it is to a process in the group.
        if self.delegated.load(Ordering::Relaxed) {
            call.in_cgroup(&self.group_of_the_caller())
        } else {
            call
        }
    }

    /// A call of the runtime with these arguments.
    #[track_caller]
    pub fn runtime<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Output {
        self.call().args(arguments).output()
    }

    /// An ID that no container has.
    pub fn id(&self) -> String {
        format!("{}-{}", self.name, self.next())
    }

    /// A call of `run` in the foreground.
    pub fn run_call(&self, bundle: &Bundle) -> Call {
        self.call().arg("run").options_here().option("--bundle", &bundle.save().path).arg(self.id())
    }

    /// Runs a bundle in the foreground.
    #[track_caller]
    pub fn run(&self, bundle: &Bundle) -> Output {
        self.run_call(bundle).output()
    }

    /// A call of `create`.
    pub fn create_call(&self, bundle: &Bundle, id: &str) -> Call {
        self.call().arg("create").options_here().option("--bundle", &bundle.save().path).arg(id)
    }

    /// A created container.
    #[track_caller]
    pub fn create(&self, bundle: &Bundle) -> Container<'_> {
        let id = self.id();
        Container::create(self, &id, self.create_call(bundle, &id))
    }

    /// A running container.
    #[track_caller]
    pub fn start(&self, bundle: &Bundle) -> Container<'_> {
        let container = self.create(bundle);
        container.start();
        container
    }

    /// Gives the caller a cgroup of his own, and calls the runtime from within.
    pub fn delegate(&self) {
        let directory = self.group_of_the_caller();
        fs::create_dir(&directory).expect("a cgroup");
        for name in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            self.give(&directory.join(name));
        }
        self.delegated.store(true, Ordering::Relaxed);
    }

    /// Whether the caller has a cgroup of his own.
    pub(crate) fn is_delegated(&self) -> bool {
        self.delegated.load(Ordering::Relaxed)
    }

    fn group_of_the_caller(&self) -> PathBuf {
        let mount = match self.view {
            View::V2 => Path::new(CGROUPS).to_path_buf(),
            _ => Path::new(CGROUPS).join("unified"),
        };
        mount.join(&self.name)
    }

    /// The file of a bundle's cgroup, in the hierarchy of a version 1 controller
    /// or in that of version 2.
    pub fn cgroup_file(&self, bundle: &Bundle, file: &str) -> PathBuf {
        let controller = file.split('.').next().unwrap_or_default();
        let group = bundle.config["linux"]["cgroupsPath"].as_str().expect("linux.cgroupsPath");
        let mount = match self.view {
            View::V2 => PathBuf::from(CGROUPS),
            View::Hybrid if ["cgroup", "hugetlb"].contains(&controller) => {
                Path::new(CGROUPS).join("unified")
            }
            _ => Path::new(CGROUPS).join(controller),
        };
        mount.join(group.trim_start_matches('/')).join(file)
    }

    /// Remembers something that fails the test at its end.
    pub(crate) fn complain(&self, complaint: String) {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).push(complaint);
    }

    /// Fails if anything is left of containers: process, group, mount, socket or file.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let left = leftovers::find(self);
        assert!(left.is_empty(), "left behind: {left:#?}");
    }

    /// Whether nothing is left of containers.
    pub fn is_clear(&self) -> bool {
        leftovers::find(self).is_empty()
    }

    /// Waits until nothing is left, for as long as a process that was killed may need.
    #[track_caller]
    pub fn assert_settles(&self, when: &str) {
        for _ in 0..200 {
            if self.is_clear() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        eprintln!("{when}:");
        self.assert_nothing_left();
    }

    /// Removes everything. Returns what should not have been there.
    fn clear(&self) -> Vec<String> {
        let mut complaints =
            std::mem::take(&mut *self.complaints.lock().unwrap_or_else(PoisonError::into_inner));
        // The delete of others does not wait for the end of what it has killed.
        let patience = if runtime().kind == Kind::Ferrun { 0 } else { 100 };
        for _ in (0..patience).take_while(|_| !self.is_clear()) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let left = leftovers::find(self);
        complaints.extend(left.iter().map(ToString::to_string));
        for id in ids(&self.root()) {
            let _ = catch_unwind(AssertUnwindSafe(|| self.runtime(["delete", "--force", &id])));
        }
        self.delegated.store(false, Ordering::Relaxed);
        leftovers::remove(self);
        complaints
    }
}

fn ids(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
