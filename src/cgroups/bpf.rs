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

/// The members of `union bpf_attr` that are used here, by command. The kernel
/// takes a short attribute as one that ends in zeroes.
#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

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
    let mut attributes = Load {
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
    let mut attributes =
        Attach { target: number(group), program: number(program), kind: CGROUP_DEVICE, flags };
    // SAFETY: the attributes hold no address, and both descriptors are borrowed and so open.
    unsafe { bpf(command, &mut attributes) }?;
    Ok(())
}

/// The identities of the programs that are attached to the group itself.
fn attached(group: BorrowedFd<'_>) -> Result<Vec<u32>> {
    let mut ids = vec![0u32; MAX_PROGRAMS];
    let mut attributes = Query {
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
    ids.truncate(usize::try_from(attributes.count)?);
    Ok(ids)
}

fn by_id(id: u32) -> Result<Option<OwnedFd>> {
    let mut attributes = ById { id, next: 0, flags: 0 };
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
/// `T` must be the part of `union bpf_attr` that `command` takes, and every
/// address in it valid for what `command` does there.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> Result<RawFd, Errno> {
    // SAFETY: the attributes are a live object of the size that is passed; what
    // they point to is the caller's promise.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>())
    };
    match RawFd::try_from(result) {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(last_errno()),
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
