//! Loop devices: files that are mounted as if they were disks.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

// Of linux/loop.h.
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
/// Nothing can be written.
pub const LO_FLAGS_READ_ONLY: u32 = 1;
/// The device is let go with the last who has it open or mounted.
pub const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// The file is read past the page cache.
pub const LO_FLAGS_DIRECT_IO: u32 = 16;

/// struct loop_info64, of which the flags and the name are used.
#[repr(C)]
struct Info {
    /// Device, inode, the file's device, offset, size limit.
    unused: [u64; 5],
    /// Number, kinds and length of a key.
    also_unused: [u32; 3],
    flags: u32,
    name: [u8; 64],
    rest: [u64; 14],
}

/// struct loop_config.
#[repr(C)]
struct Configuration {
    file: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// The number of a device that nobody uses now, by a descriptor of /dev/loop-control.
pub fn free_loop_device(control: impl AsFd) -> nix::Result<u32> {
    // SAFETY: this request takes no argument, and the kernel writes nothing.
    let number = unsafe { libc::ioctl(control.as_fd().as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    Errno::result(number).map(|number| number as u32)
}

/// Puts a file behind a loop device. `name` is what the kernel shows of it.
pub fn configure_loop_device(
    device: impl AsFd,
    file: impl AsFd,
    flags: u32,
    name: &[u8],
) -> nix::Result<()> {
    let info = Info { unused: [0; 5], also_unused: [0; 3], flags, name: [0; 64], rest: [0; 14] };
    let file = file.as_fd().as_raw_fd() as u32;
    let mut configuration = Configuration { file, block_size: 0, info, reserved: [0; 8] };
    // What is longer is cut, with a NUL at its end.
    configuration.info.name[..63].iter_mut().zip(name).for_each(|(to, from)| *to = *from);
    // SAFETY: the structure is that of linux/loop.h in its length and layout, and outlives the
    // call; the kernel reads it, and writes nothing.
    let ret = unsafe {
        libc::ioctl(device.as_fd().as_raw_fd(), LOOP_CONFIGURE as _, &raw const configuration)
    };
    Errno::result(ret).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_as_long_as_the_kernels() {
        assert_eq!((size_of::<Info>(), size_of::<Configuration>()), (232, 304));
    }
}
