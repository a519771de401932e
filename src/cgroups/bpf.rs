//! bpf(2), as far as device programs of cgroup v2 need it.
#![allow(unsafe_code)]

use std::mem::size_of;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use anyhow::{Context as _, Result};
use rustix::io::Errno;

use crate::plan::cgroup::program::Instruction;

// Commands, types and flags of linux/bpf.h.
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// The kernel takes no more programs than this for one group (BPF_CGROUP_MAX_PROGS).
const MAX_PROGRAMS: usize = 64;

/// `union bpf_attr`, of which the members that are used here have a name. It is larger
/// than the kernel's own, for there are kernels that write to a member of it whatever
/// size they were told; what they do not know they want to be zero.
#[repr(C)]
union Attributes {
    load: Load,
    attach: Attach,
    query: Query,
    by_id: ById,
    whole: [u64; WHOLE],
}

/// In words of eight bytes; that of Linux 6.18 has 21.
const WHOLE: usize = 32;

impl Attributes {
    const ZERO: Self = Self { whole: [0; WHOLE] };
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Query {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    padding: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// Makes `program` the group's only device program. The new one is attached
/// before the old ones go, and all that are attached have to agree, so nothing
/// is allowed in between that is denied before and after.
pub(super) fn replace_device_program(group: BorrowedFd<'_>, program: &[Instruction]) -> Result<()> {
    let old = attached(group).context("bpf BPF_PROG_QUERY")?;
    let new = load(program).context("bpf BPF_PROG_LOAD")?;
    change(PROG_ATTACH, group, new.as_fd(), ALLOW_MULTI).context("bpf BPF_PROG_ATTACH")?;
    for id in old {
        // One that is gone by now is no one's loss.
        let Some(program) = by_id(id).context("bpf BPF_PROG_GET_FD_BY_ID")? else { continue };
        change(PROG_DETACH, group, program.as_fd(), 0).context("bpf BPF_PROG_DETACH")?;
    }
    Ok(())
}

fn load(program: &[Instruction]) -> Result<OwnedFd> {
    let mut attributes = Attributes::ZERO;
    attributes.load = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len())?,
        instructions: program.as_ptr() as u64,
        // No function of the kernel is called, so none asks for a license.
        license: c"Apache-2.0".as_ptr() as u64,
    };
    // SAFETY: the instructions are a borrowed slice of as many `struct bpf_insn`
    // as it says, the license is a literal; the kernel reads both and no more.
    let fd = unsafe { bpf(PROG_LOAD, &mut attributes) }?;
    // SAFETY: a descriptor that this call has just returned belongs to no one else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn change(
    command: libc::c_int,
    group: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    flags: u32,
) -> Result<()> {
    let mut attributes = Attributes::ZERO;
    attributes.attach =
        Attach { target: number(group), program: number(program), kind: CGROUP_DEVICE, flags };
    // SAFETY: the attributes hold no address, and both descriptors are borrowed and so open.
    unsafe { bpf(command, &mut attributes) }?;
    Ok(())
}

/// The identities of the programs that are attached to the group itself.
fn attached(group: BorrowedFd<'_>) -> Result<Vec<u32>> {
    let mut ids = vec![0u32; MAX_PROGRAMS];
    let mut attributes = Attributes::ZERO;
    attributes.query = Query {
        target: number(group),
        kind: CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        programs: ids.as_mut_ptr() as u64,
        count: u32::try_from(ids.len())?,
        padding: 0,
    };
    // SAFETY: the kernel writes at most `count` numbers to `programs`, which is
    // as long, and the number of them to `count`.
    unsafe { bpf(PROG_QUERY, &mut attributes) }?;
    // SAFETY: the query is numbers alone, all of which were set above.
    let count = unsafe { attributes.query.count };
    ids.truncate(usize::try_from(count)?);
    Ok(ids)
}

fn by_id(id: u32) -> Result<Option<OwnedFd>> {
    let mut attributes = Attributes::ZERO;
    attributes.by_id = ById { id, next: 0, flags: 0 };
    // SAFETY: the attributes hold no address.
    match unsafe { bpf(PROG_GET_FD_BY_ID, &mut attributes) } {
        // SAFETY: a descriptor that this call has just returned belongs to no one else.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    // A borrowed descriptor is never negative.
    fd.as_raw_fd().cast_unsigned()
}

/// # Safety
/// The member that `command` takes must be set, and every address in it valid for what
/// `command` does there.
unsafe fn bpf(command: libc::c_int, attributes: &mut Attributes) -> Result<RawFd, Errno> {
    let size = size_of::<Attributes>();
    // SAFETY: the attributes are a live object of the size that is passed; what
    // they point to is the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size) };
    match RawFd::try_from(result) {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(last_errno()),
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that writes where it was not told to writes within its own union.
    #[test]
    fn the_attributes_are_as_large_as_the_kernels_own_and_zero() {
        assert!(size_of::<Attributes>() >= 168, "{}", size_of::<Attributes>());
        let mut attributes = Attributes::ZERO;
        attributes.by_id = ById { id: 1, next: 0, flags: 0 };
        // SAFETY: numbers alone, all of which are set.
        let whole = unsafe { attributes.whole };
        assert_eq!(whole.iter().sum::<u64>(), 1);
    }
}
