//! What the runtime still calls in a process under the program's filter, where it can load
//! the filter before them.
//!
//! Loading a filter takes CAP_SYS_ADMIN where there is no no_new_privs. A process that
//! waits, or that others in its pid namespace can look into, had better have given that up:
//! so the filter comes as early as it lets the rest through. What it may not let through
//! comes before it, or the filter comes last.

use ferrun_seccomp::{Arch, Filter, KnownCall};

use crate::abi::SIBLING;

/// The calls from the filter to execve(2): of init, at the gate and past it, and of a process
/// that makes the one that stays.
const CALLS: [libc::c_long; 23] = [
    libc::SYS_capset,
    libc::SYS_setsid,
    libc::SYS_ioctl,
    libc::SYS_prctl,
    libc::SYS_ppoll,
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_write,
    libc::SYS_close,
    // Before a close, by builds with debug assertions.
    libc::SYS_fcntl,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_prlimit64,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_execve,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
];

/// Whether a filter may be loaded before these calls.
pub fn may_come_first(filter: &Filter) -> bool {
    let allows = |number: libc::c_long, first| {
        u32::try_from(number)
            .is_ok_and(|number| filter.allows(Arch::native(), KnownCall { number, first }))
    };
    CALLS.iter().all(|number| allows(*number, None)) && allows(libc::SYS_clone, Some(SIBLING))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(profile: &str) -> Filter {
        ferrun_seccomp::compile(&serde_json::from_str(profile).unwrap(), Arch::native()).unwrap()
    }

    #[test]
    fn a_filter_comes_first_if_it_lets_every_one_of_them_through() {
        assert!(may_come_first(&filter(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#)));
        for refused in ["execve", "prctl", "clone", "accept4"] {
            let profile = format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW",
                    "syscalls":[{{"names":["{refused}"],"action":"SCMP_ACT_ERRNO"}}]}}"#
            );
            assert!(!may_come_first(&filter(&profile)), "{refused}");
        }
        // Docker's and containerd's rule on new namespaces is about other clones.
        let namespaces = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["clone"],
            "action":"SCMP_ACT_ERRNO",
            "args":[{"index":0,"value":268435456,"valueTwo":268435456,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#;
        assert!(may_come_first(&filter(namespaces)));
    }
}
