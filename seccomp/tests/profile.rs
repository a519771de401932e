//! What the specification and runc ask of a profile, and where we differ from
//! libseccomp on purpose.

#![cfg(test)]

#[path = "interpreter/mod.rs"]
mod interpreter;

use ferrun_seccomp::{Arch, Filter, FilterFlags, architectures, compile};
use interpreter::{Call, run};
use serde_json::{Value, json};

const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;

const fn errno(number: u32) -> u32 {
    0x0005_0000 | number
}

const EPERM: u32 = errno(1);
const ENOSYS: u32 = errno(38);

fn filter(profile: Value) -> Filter {
    compile(&serde_json::from_value(profile).unwrap(), Arch::X86_64).unwrap()
}

fn refusal(profile: Value) -> String {
    let profile = serde_json::from_value(profile).unwrap();
    format!("{:#}", compile(&profile, Arch::X86_64).unwrap_err())
}

/// What becomes of the call `name`, or of a number, on `arch`.
fn outcome(filter: &Filter, arch: Arch, name: &str, arguments: [u64; 6]) -> u32 {
    let number = name.parse().ok().or_else(|| arch.syscall(name)).unwrap();
    run(&filter.instructions, &Call::new(arch, number, arguments))
}

fn on_x86_64(filter: &Filter, name: &str, first: u64) -> u32 {
    outcome(filter, Arch::X86_64, name, [first, 0, 0, 0, 0, 0])
}

#[test]
fn what_breaks_the_specification_is_refused_with_its_field() {
    let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]});
    let arg =
        |arg: Value| rule(json!({"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [arg]}));
    for (profile, error) in [
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}),
            "defaultErrnoRet: 1: SCMP_ACT_ALLOW takes none",
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_KILL", "errnoRet": 2})),
            "syscalls[0].errnoRet: 2: SCMP_ACT_KILL takes none",
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096})),
            "syscalls[0].errnoRet: 4096: more than 4095",
        ),
        (
            rule(json!({"names": [], "action": "SCMP_ACT_ALLOW"})),
            "syscalls[0].names: must name at least one call",
        ),
        (
            arg(json!({"index": 7, "value": 0, "op": "SCMP_CMP_EQ"})),
            "syscalls[0].args[0].index: 7: a call has 6 arguments",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}),
            "listenerMetadata: needs listenerPath",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}),
            "flags[0]: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs an action SCMP_ACT_NOTIFY",
        ),
    ] {
        assert_eq!(refusal(profile), error);
    }
}

#[test]
fn an_unknown_call_is_passed_over_with_a_warning() {
    let filter = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls":
        [{"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"}]}));
    assert_eq!(filter.warnings, ["syscalls[0].names[1]: \"no_such_call\": no such call, ignored"]);
    assert_eq!(on_x86_64(&filter, "read", 0), ALLOW);
}

#[test]
fn an_architecture_without_a_table_is_passed_over_with_a_warning() {
    let filter = filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures":
        ["SCMP_ARCH_X86_64", "SCMP_ARCH_SHEB"]}));
    assert_eq!(
        filter.warnings,
        ["architectures[1]: SCMP_ARCH_SHEB is not known here and stays killed"]
    );
}

#[test]
fn each_action_has_its_value() {
    for (action, data, value) in [
        ("SCMP_ACT_KILL", None, KILL_THREAD),
        ("SCMP_ACT_KILL_THREAD", None, KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", None, KILL_PROCESS),
        ("SCMP_ACT_TRAP", None, TRAP),
        ("SCMP_ACT_ERRNO", None, EPERM),
        ("SCMP_ACT_ERRNO", Some(38), ENOSYS),
        ("SCMP_ACT_ERRNO", Some(0), errno(0)),
        ("SCMP_ACT_NOTIFY", None, 0x7fc0_0000),
        ("SCMP_ACT_TRACE", None, 0x7ff0_0001),
        ("SCMP_ACT_TRACE", Some(0xffff), 0x7ff0_ffff),
        ("SCMP_ACT_LOG", None, 0x7ffc_0000),
        ("SCMP_ACT_ALLOW", None, ALLOW),
    ] {
        let mut profile = json!({"defaultAction": action});
        if let Some(data) = data {
            profile["defaultErrnoRet"] = json!(data);
        }
        assert_eq!(on_x86_64(&filter(profile), "read", 0), value, "{action} {data:?}");
    }
}

#[test]
fn flags_are_those_of_the_profile_and_spec_allow_without_any() {
    let flags =
        |flags: Value| filter(json!({"defaultAction": "SCMP_ACT_NOTIFY", "flags": flags})).flags;
    assert_eq!(filter(json!({"defaultAction": "SCMP_ACT_ALLOW"})).flags, FilterFlags::SPEC_ALLOW);
    assert_eq!(flags(json!([])).bits(), 0);
    let tsync = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_TSYNC"]});
    assert_eq!(filter(tsync).flags.bits(), 1);
    // With a listener the kernel wants TSYNC_ESRCH beside it.
    let both = flags(json!(["SECCOMP_FILTER_FLAG_TSYNC"]));
    assert_eq!(both.bits(), 1 | 16);
    assert!(both.contains(FilterFlags::TSYNC_ESRCH) && both.contains(both));
    assert!(!both.contains(FilterFlags::LOG) && !FilterFlags::TSYNC.contains(both));
    assert_eq!(
        flags(json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"])).bits(),
        6
    );
    assert_eq!(flags(json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])).bits(), 32);
    let twice = json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_LOG"]);
    assert_eq!(flags(twice), FilterFlags::LOG);
}

#[test]
fn a_notifying_profile_says_so() {
    let rule = |action: &str| {
        let rules = json!([{"names": ["mount"], "action": action}]);
        filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules})).notifies
    };
    assert!(rule("SCMP_ACT_NOTIFY"));
    assert!(!rule("SCMP_ACT_ERRNO"));
    assert!(filter(json!({"defaultAction": "SCMP_ACT_NOTIFY"})).notifies);
}

#[test]
fn calls_newer_than_the_profile_fail_with_enosys_where_the_default_denies() {
    for (default, newer) in [
        ("SCMP_ACT_ERRNO", ENOSYS),
        ("SCMP_ACT_KILL", ENOSYS),
        ("SCMP_ACT_KILL_PROCESS", ENOSYS),
        ("SCMP_ACT_TRAP", ENOSYS),
        ("SCMP_ACT_ALLOW", ALLOW),
        ("SCMP_ACT_LOG", 0x7ffc_0000),
        ("SCMP_ACT_TRACE", 0x7ff0_0001),
        ("SCMP_ACT_NOTIFY", 0x7fc0_0000),
    ] {
        // clone3 is 435 everywhere; that its rule repeats no outcome matters not.
        let filter = filter(
            json!({"defaultAction": default, "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [{"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}]}),
        );
        for arch in [Arch::X86_64, Arch::X86, Arch::X32] {
            let known = outcome(&filter, arch, "clone3", [0; 6]);
            assert_eq!(known, errno(99));
            assert_eq!(
                outcome(&filter, arch, "close_range", [0; 6]),
                newer,
                "{default} on {}",
                arch.name()
            );
            assert_eq!(
                outcome(&filter, arch, "file_setattr", [0; 6]),
                newer,
                "{default} on {}",
                arch.name()
            );
        }
    }
}

#[test]
fn a_profile_without_calls_knows_of_no_newer_ones() {
    let filter = filter(json!({"defaultAction": "SCMP_ACT_ERRNO"}));
    assert_eq!(on_x86_64(&filter, "file_setattr", 0), EPERM);
}

#[test]
fn the_number_that_s390_passes_large_ones_through_fails_with_enosys() {
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls":
        [{"names": ["clone3"], "action": "SCMP_ACT_ALLOW"}]});
    let filter = compile(&serde_json::from_value(profile).unwrap(), Arch::S390x).unwrap();
    assert_eq!(outcome(&filter, Arch::S390x, "0", [0; 6]), ENOSYS);
    assert_eq!(outcome(&filter, Arch::S390x, "1", [0; 6]), EPERM);
}

#[test]
fn an_architecture_that_is_neither_native_nor_named_is_killed() {
    let only_native = filter(json!({"defaultAction": "SCMP_ACT_ALLOW"}));
    assert_eq!(outcome(&only_native, Arch::X86_64, "read", [0; 6]), ALLOW);
    for foreign in [Arch::X86, Arch::X32, Arch::Aarch64] {
        assert_eq!(
            outcome(&only_native, foreign, "read", [0; 6]),
            KILL_THREAD,
            "{}",
            foreign.name()
        );
    }
    // The number that a tracer sets to skip a call has the bit of x32, and is no such call.
    assert_eq!(outcome(&only_native, Arch::X86_64, "4294967295", [0; 6]), ALLOW);
}

#[test]
fn each_architecture_has_a_name_by_which_it_is_found() {
    let names: Vec<_> = architectures().collect();
    assert_eq!(names.len(), Arch::ALL.len());
    for (name, arch) in names.into_iter().zip(Arch::ALL) {
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": [name]});
        let native = if arch == Arch::Aarch64 { Arch::X86_64 } else { Arch::Aarch64 };
        let filter = compile(&serde_json::from_value(profile).unwrap(), native).unwrap();
        assert_eq!(outcome(&filter, arch, "read", [0; 6]), ALLOW, "{name}");
    }
}

#[test]
fn an_architecture_that_is_named_twice_is_one() {
    let named =
        |names: &[&str]| filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": names}));
    let once = named(&["SCMP_ARCH_X86"]);
    assert_eq!(named(&["SCMP_ARCH_X86", "SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]), once);
}

#[test]
fn x32_and_x86_64_share_a_token_and_are_named_each_for_itself() {
    for (names, x32, x86_64) in [
        (&["SCMP_ARCH_X32"][..], ALLOW, KILL_THREAD),
        (&["SCMP_ARCH_X86_64"], KILL_THREAD, ALLOW),
        (&["SCMP_ARCH_X32", "SCMP_ARCH_X86_64"], ALLOW, ALLOW),
        (&["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"], ALLOW, ALLOW),
    ] {
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": names});
        let filter = compile(&serde_json::from_value(profile).unwrap(), Arch::Aarch64).unwrap();
        assert_eq!(outcome(&filter, Arch::X32, "read", [0; 6]), x32, "{names:?}");
        assert_eq!(outcome(&filter, Arch::X86_64, "read", [0; 6]), x86_64, "{names:?}");
    }
}

#[test]
fn several_conditions_hold_together_but_two_on_one_argument_each_alone() {
    let conditions = |args: Value| {
        filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls":
            [{"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": args}]}))
    };
    let together = conditions(json!([
        {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}]));
    assert_eq!(outcome(&together, Arch::X86_64, "socket", [1, 2, 0, 0, 0, 0]), ALLOW);
    assert_eq!(outcome(&together, Arch::X86_64, "socket", [1, 3, 0, 0, 0, 0]), EPERM);
    let alone = conditions(json!([
        {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"},
        {"index": 1, "value": 5, "op": "SCMP_CMP_EQ"}]));
    for (arguments, expected) in
        [([1, 0], ALLOW), ([2, 0], ALLOW), ([3, 5], ALLOW), ([3, 0], EPERM)]
    {
        let [first, second] = arguments;
        assert_eq!(outcome(&alone, Arch::X86_64, "socket", [first, second, 0, 0, 0, 0]), expected);
    }
}

#[test]
fn the_more_specific_of_two_rules_that_fit_is_taken() {
    let rule = |errno: u32, op: &str, value: u64| {
        json!({"names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno,
            "args": [{"index": 0, "value": value, "op": op}]})
    };
    let rules = [
        rule(10, "SCMP_CMP_GE", 5),
        rule(20, "SCMP_CMP_GE", 10),
        rule(30, "SCMP_CMP_LT", 3),
        rule(40, "SCMP_CMP_LT", 8),
        rule(50, "SCMP_CMP_EQ", 7),
    ];
    let reversed: Vec<_> = rules.iter().rev().cloned().collect();
    for rules in [rules.to_vec(), reversed] {
        let filter = filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}));
        for (value, expected) in [(0, 30), (3, 40), (6, 40), (7, 50), (8, 10), (9, 10), (10, 20)] {
            assert_eq!(on_x86_64(&filter, "personality", value), errno(expected), "{value}");
        }
    }
}

#[test]
fn a_rule_without_conditions_outdoes_all_others() {
    let unconditional = json!({"names": ["read"], "action": "SCMP_ACT_TRAP"});
    let conditional = json!({"names": ["read"], "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]});
    let late = json!({"names": ["read"], "action": "SCMP_ACT_KILL_PROCESS"});
    for rules in
        [json!([unconditional, conditional, late]), json!([conditional, unconditional, late])]
    {
        let filter = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}));
        assert_eq!(on_x86_64(&filter, "read", 0), TRAP);
    }
}

#[test]
fn a_rule_that_repeats_the_default_takes_nothing_from_another() {
    let filter = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
        {"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}));
    assert_eq!(on_x86_64(&filter, "read", 0), ALLOW);
}

#[test]
fn rules_that_contradict_each_other_are_refused() {
    let rule = |action: &str, args: &[u64]| {
        let args = args.iter().enumerate();
        let args: Vec<_> = args
            .map(|(i, value)| json!({"index": i, "value": value, "op": "SCMP_CMP_EQ"}))
            .collect();
        json!({"names": ["mkdir"], "action": action, "args": args})
    };
    let with = |rules: Value| json!({"defaultAction": "SCMP_ACT_KILL", "syscalls": rules});
    let (narrow, wide) = (rule("SCMP_ACT_ERRNO", &[1, 2]), rule("SCMP_ACT_ALLOW", &[1]));
    let error = "syscalls[1]: contradicts syscalls[0]: fits the same arguments of \"mkdir\", with another action";
    assert_eq!(refusal(with(json!([narrow, wide]))), error);
    assert_eq!(refusal(with(json!([wide, rule("SCMP_ACT_TRAP", &[1])]))), error);
    // Also with an idle rule in between.
    let between = rule("SCMP_ACT_ALLOW", &[1, 3]);
    let error = error.replace("[1]:", "[2]:");
    assert_eq!(refusal(with(json!([narrow, between, wide]))), error);
    // Of a narrow architecture's arguments the lower halves are all there is.
    let halves = json!([rule("SCMP_ACT_ERRNO", &[1]), rule("SCMP_ACT_ALLOW", &[1 | 1 << 32])]);
    let on = |native| compile(&serde_json::from_value(with(halves.clone())).unwrap(), native);
    assert!(on(Arch::X86_64).is_ok() && on(Arch::X86).is_err());
    // The other way round the narrow rule is idle, for libseccomp too.
    let idle = filter(with(json!([wide, narrow])));
    assert_eq!(outcome(&idle, Arch::X86_64, "mkdir", [1, 2, 0, 0, 0, 0]), ALLOW);
}

#[test]
fn sockets_of_x86_are_reached_in_both_ways() {
    let filter =
        filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [{"names": ["socket", "accept", "semop"], "action": "SCMP_ACT_ALLOW"}]}));
    let call = |name, first| outcome(&filter, Arch::X86, name, [first, 0, 0, 0, 0, 0]);
    assert_eq!(call("socket", 0), ALLOW);
    assert_eq!(
        [1, 2, 5, 6].map(|selector| call("socketcall", selector)),
        [ALLOW, EPERM, ALLOW, EPERM]
    );
    assert_eq!([1, 2].map(|selector| call("ipc", selector)), [ALLOW, EPERM]);
}

#[test]
fn a_condition_on_a_multiplexed_call_cannot_see_its_arguments() {
    // As libseccomp has it: any socket passes through socketcall.
    let filter =
        filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}]}));
    let call = |name, first| outcome(&filter, Arch::X86, name, [first, 0, 0, 0, 0, 0]);
    assert_eq!([call("socket", 1), call("socket", 2)], [ALLOW, EPERM]);
    assert_eq!([call("socketcall", 1), call("socketcall", 2)], [ALLOW, EPERM]);
}

#[test]
fn other_conditions_of_a_multiplexed_call_are_asked_as_they_stand() {
    let filter =
        filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 1, "value": 7, "op": "SCMP_CMP_EQ"}]}]}));
    let call = |second| outcome(&filter, Arch::X86, "socketcall", [1, second, 0, 0, 0, 0]);
    assert_eq!([call(7), call(8)], [ALLOW, EPERM]);
}

#[test]
fn a_rule_for_socketcall_itself_contradicts_none_for_what_it_calls() {
    let filter =
        filter(json!({"defaultAction": "SCMP_ACT_KILL", "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [
            {"names": ["socketcall"], "action": "SCMP_ACT_ERRNO",
             "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW"}]}));
    assert_eq!(outcome(&filter, Arch::X86, "socketcall", [1, 0, 0, 0, 0, 0]), EPERM);
    assert_eq!(outcome(&filter, Arch::X86, "socket", [0; 6]), ALLOW);
}

#[test]
fn the_numbers_libseccomp_makes_up_for_multiplexed_calls_are_no_calls() {
    // It lets -105 pass where the profile allows accept(2).
    let filter =
        filter(json!({"defaultAction": "SCMP_ACT_KILL", "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [{"names": ["accept", "write"], "action": "SCMP_ACT_ALLOW"}]}));
    let made_up = (-105_i32 as u32).to_string();
    assert_eq!(outcome(&filter, Arch::X86, &made_up, [0; 6]), ENOSYS);
}

#[test]
fn calls_that_libseccomp_does_not_know_are_known() {
    let filter = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls":
        [{"names": ["mseal", "file_setattr", "uprobe"], "action": "SCMP_ACT_ALLOW"}]}));
    for (number, expected) in
        [("462", ALLOW), ("463", EPERM), ("469", ALLOW), ("336", ALLOW), ("470", ENOSYS)]
    {
        assert_eq!(on_x86_64(&filter, number, 0), expected, "{number}");
    }
}

#[test]
fn upper_halves_are_compared_where_rules_differ_in_them() {
    // libseccomp 2.5.4 tests the lower half of 15 against the second rule's upper one.
    let rule = |op: &str, value: u64| {
        json!({"names": ["socket"], "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": value, "op": op}]})
    };
    let filter = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls":
        [rule("SCMP_CMP_LT", 7), rule("SCMP_CMP_LE", 0x1_0000_0003)]}));
    for (value, expected) in [(15, ALLOW), (0x1_0000_0003, ALLOW), (0x1_0000_0004, EPERM)] {
        assert_eq!(on_x86_64(&filter, "socket", value), expected, "{value:#x}");
    }
}

#[test]
fn a_call_that_an_architecture_lacks_leaves_the_others_alone() {
    // libseccomp 2.5.4 makes a program of this that compares the architecture
    // with the number of getsockopt.
    let filter = filter(
        json!({"defaultAction": "SCMP_ACT_KILL", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": ["ipc"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["getsockopt"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 1, "value": 5, "op": "SCMP_CMP_EQ"}]}]}),
    );
    for arch in [Arch::X86_64, Arch::X86, Arch::X32] {
        assert_eq!(
            outcome(&filter, arch, "getsockopt", [0, 5, 0, 0, 0, 0]),
            ALLOW,
            "{}",
            arch.name()
        );
        assert_eq!(
            outcome(&filter, arch, "getsockopt", [0, 6, 0, 0, 0, 0]),
            KILL_THREAD,
            "{}",
            arch.name()
        );
    }
}

#[test]
fn architectures_of_both_byte_orders_go_into_one_filter() {
    let filter =
        filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_S390X"],
        "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 0x1_0000_0002_u64, "op": "SCMP_CMP_EQ"}]}]}));
    for arch in [Arch::X86_64, Arch::S390x] {
        let call = |first| outcome(&filter, arch, "personality", [first, 0, 0, 0, 0, 0]);
        assert_eq!([call(0x1_0000_0002), call(0x2_0000_0001)], [ALLOW, EPERM]);
    }
}

#[test]
fn a_long_program_finds_its_way() {
    let rule = |value: u64| {
        json!({"names": ["ioperm"], "action": "SCMP_ACT_ERRNO", "errnoRet": value % 7 + 1,
            "args": [{"index": 0, "op": "SCMP_CMP_GT", "value": value << 33}]})
    };
    let filter = filter(
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": (0..450).map(rule).collect::<Vec<_>>()}),
    );
    assert_eq!(on_x86_64(&filter, "ioperm", 0), ALLOW);
    for value in 0..450_u64 {
        assert_eq!(
            on_x86_64(&filter, "ioperm", value << 33 | 1),
            errno(value as u32 % 7 + 1),
            "{value}"
        );
    }
    // A `return` stands where a jump would lead to one.
    const JUMP: u16 = 0x05;
    const RETURN: u16 = 0x06;
    let instructions = filter.instructions.iter().enumerate();
    let jumps = instructions.filter(|(_, instruction)| instruction.code == JUMP);
    let targets: Vec<_> =
        jumps.map(|(at, jump)| filter.instructions[at + 1 + jump.k as usize].code).collect();
    assert!(!targets.is_empty() && !targets.contains(&RETURN), "{targets:?}");
}

#[test]
fn two_rules_that_collide_behind_socketcall_are_no_contradiction() {
    let rule = |action: &str, family: u64| json!({"names": ["socket"], "action": action, "args": [{"index": 0, "value": family, "op": "SCMP_CMP_EQ"}]});
    let filter =
        filter(json!({"defaultAction": "SCMP_ACT_KILL", "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [rule("SCMP_ACT_ERRNO", 1), rule("SCMP_ACT_ALLOW", 2)]}));
    let call = |name, first| outcome(&filter, Arch::X86, name, [first, 0, 0, 0, 0, 0]);
    assert_eq!(
        [call("socket", 1), call("socket", 2), call("socketcall", 1)],
        [EPERM, ALLOW, EPERM]
    );
}

/// Each instruction is paid for at each call that the kernel cannot decide beforehand.
#[test]
fn filters_of_engines_are_as_short_as_they_were() {
    for (profile, instructions) in [
        (include_str!("data/docker-29.json"), 263),
        (include_str!("data/containerd-2.4.json"), 263),
        (include_str!("data/podman-4.3.json"), 257),
    ] {
        let filter = compile(&serde_json::from_str(profile).unwrap(), Arch::X86_64).unwrap();
        assert_eq!(filter.instructions.len(), instructions);
    }
}

#[test]
fn a_filter_beyond_the_kernels_limit_is_refused_with_the_limit() {
    let rules: Vec<_> = (0..3000_u64)
        .map(|value| {
            json!({"names": ["read"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": value << 32, "op": "SCMP_CMP_EQ"}]})
        })
        .collect();
    let error = refusal(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}));
    assert!(error.starts_with("syscalls: the filter takes "), "{error}");
    assert!(error.ends_with(" instructions, the kernel allows 4096 (BPF_MAXINSNS)"), "{error}");
}
