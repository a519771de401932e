//! What a filter must know of an architecture: its token in `seccomp_data`,
//! its system call numbers, how wide and in which byte order the arguments are.

use oci_spec::runtime as oci;

use crate::table::{ABSENT, TABLE};

/// The bit that marks a call of the x32 ABI (`__X32_SYSCALL_BIT`).
pub const X32_BIT: u32 = 0x4000_0000;

/// ARM's private calls (`__ARM_NR_BASE`), and where the table keeps them.
const ARM_PRIVATE: u32 = 0x0f_0000;
const ARM_PRIVATE_ROW: u16 = 0x8000;

/// An architecture whose system calls this crate knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// AMD64.
    X86_64,
    /// i386.
    X86,
    /// The x32 ABI: 32-bit pointers on AMD64, told apart by a bit of the number.
    X32,
    /// 32-bit ARM with the EABI.
    Arm,
    /// 64-bit ARM.
    Aarch64,
    /// MIPS o32, big endian.
    Mips,
    /// MIPS n64, big endian.
    Mips64,
    /// MIPS n32, big endian.
    Mips64n32,
    /// MIPS o32, little endian.
    Mipsel,
    /// MIPS n64, little endian.
    Mipsel64,
    /// MIPS n32, little endian.
    Mipsel64n32,
    /// 32-bit PA-RISC.
    Parisc,
    /// 64-bit PA-RISC.
    Parisc64,
    /// 32-bit PowerPC.
    Ppc,
    /// 64-bit PowerPC, big endian.
    Ppc64,
    /// 64-bit PowerPC, little endian.
    Ppc64le,
    /// 64-bit RISC-V.
    Riscv64,
    /// 31-bit s390.
    S390,
    /// 64-bit s390.
    S390x,
    /// 64-bit LoongArch.
    Loongarch64,
}

/// The properties of one architecture.
struct Traits {
    /// `AUDIT_ARCH_*` of linux/audit.h.
    token: u32,
    /// The column of the table of calls.
    column: usize,
    /// What the column's numbers count from.
    first: u32,
    wide: bool,
    big_endian: bool,
}

const fn traits(token: u32, column: usize, first: u32) -> Traits {
    // The bits of the token as linux/audit.h defines them.
    Traits {
        token,
        column,
        first,
        wide: token & 0x8000_0000 != 0,
        big_endian: token & 0x4000_0000 == 0,
    }
}

impl Arch {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::X86_64,
        Self::X86,
        Self::X32,
        Self::Arm,
        Self::Aarch64,
        Self::Mips,
        Self::Mips64,
        Self::Mips64n32,
        Self::Mipsel,
        Self::Mipsel64,
        Self::Mipsel64n32,
        Self::Parisc,
        Self::Parisc64,
        Self::Ppc,
        Self::Ppc64,
        Self::Ppc64le,
        Self::Riscv64,
        Self::S390,
        Self::S390x,
        Self::Loongarch64,
    ];

    /// The architecture this program was built for.
    #[must_use]
    pub const fn native() -> Self {
        #[cfg(target_arch = "x86_64")]
        return Self::X86_64;
        #[cfg(target_arch = "aarch64")]
        return Self::Aarch64;
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        compile_error!("only x86_64 and aarch64 can be native");
    }

    /// The architecture of a profile's constant, with `SCMP_ARCH_NATIVE` read
    /// as `native`; `None` if its calls are not known here.
    #[must_use]
    pub const fn from_spec(arch: oci::Arch, native: Self) -> Option<Self> {
        Some(match arch {
            oci::Arch::ScmpArchNative => native,
            oci::Arch::ScmpArchX86_64 => Self::X86_64,
            oci::Arch::ScmpArchX86 => Self::X86,
            oci::Arch::ScmpArchX32 => Self::X32,
            oci::Arch::ScmpArchArm => Self::Arm,
            oci::Arch::ScmpArchAarch64 => Self::Aarch64,
            oci::Arch::ScmpArchMips => Self::Mips,
            oci::Arch::ScmpArchMips64 => Self::Mips64,
            oci::Arch::ScmpArchMips64n32 => Self::Mips64n32,
            oci::Arch::ScmpArchMipsel => Self::Mipsel,
            oci::Arch::ScmpArchMipsel64 => Self::Mipsel64,
            oci::Arch::ScmpArchMipsel64n32 => Self::Mipsel64n32,
            oci::Arch::ScmpArchParisc => Self::Parisc,
            oci::Arch::ScmpArchParisc64 => Self::Parisc64,
            oci::Arch::ScmpArchPpc => Self::Ppc,
            oci::Arch::ScmpArchPpc64 => Self::Ppc64,
            oci::Arch::ScmpArchPpc64le => Self::Ppc64le,
            oci::Arch::ScmpArchRiscv64 => Self::Riscv64,
            oci::Arch::ScmpArchS390 => Self::S390,
            oci::Arch::ScmpArchS390x => Self::S390x,
            oci::Arch::ScmpArchLoongarch64 => Self::Loongarch64,
            oci::Arch::ScmpArchM68k | oci::Arch::ScmpArchSh | oci::Arch::ScmpArchSheb => {
                return None;
            }
        })
    }

    /// The constant of the specification.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "SCMP_ARCH_X86_64",
            Self::X86 => "SCMP_ARCH_X86",
            Self::X32 => "SCMP_ARCH_X32",
            Self::Arm => "SCMP_ARCH_ARM",
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
            Self::Mips => "SCMP_ARCH_MIPS",
            Self::Mips64 => "SCMP_ARCH_MIPS64",
            Self::Mips64n32 => "SCMP_ARCH_MIPS64N32",
            Self::Mipsel => "SCMP_ARCH_MIPSEL",
            Self::Mipsel64 => "SCMP_ARCH_MIPSEL64",
            Self::Mipsel64n32 => "SCMP_ARCH_MIPSEL64N32",
            Self::Parisc => "SCMP_ARCH_PARISC",
            Self::Parisc64 => "SCMP_ARCH_PARISC64",
            Self::Ppc => "SCMP_ARCH_PPC",
            Self::Ppc64 => "SCMP_ARCH_PPC64",
            Self::Ppc64le => "SCMP_ARCH_PPC64LE",
            Self::Riscv64 => "SCMP_ARCH_RISCV64",
            Self::S390 => "SCMP_ARCH_S390",
            Self::S390x => "SCMP_ARCH_S390X",
            Self::Loongarch64 => "SCMP_ARCH_LOONGARCH64",
        }
    }

    const fn traits(self) -> Traits {
        match self {
            Self::X86_64 => traits(0xc000_003e, 0, 0),
            Self::X86 => traits(0x4000_0003, 1, 0),
            // The kernel reports AMD64's token for x32, and a profile means
            // 32-bit values: libseccomp compares the low halves only.
            Self::X32 => Traits { wide: false, ..traits(0xc000_003e, 2, X32_BIT) },
            Self::Arm => traits(0x4000_0028, 3, 0),
            Self::Aarch64 => traits(0xc000_00b7, 4, 0),
            Self::Mips => traits(0x0000_0008, 5, 4000),
            Self::Mips64 => traits(0x8000_0008, 6, 5000),
            // n32 carries the 64-bit flag, but its values are 32 bits wide.
            Self::Mips64n32 => Traits { wide: false, ..traits(0xa000_0008, 7, 6000) },
            Self::Mipsel => traits(0x4000_0008, 5, 4000),
            Self::Mipsel64 => traits(0xc000_0008, 6, 5000),
            Self::Mipsel64n32 => Traits { wide: false, ..traits(0xe000_0008, 7, 6000) },
            Self::Parisc => traits(0x0000_000f, 8, 0),
            Self::Parisc64 => traits(0x8000_000f, 9, 0),
            Self::Ppc => traits(0x0000_0014, 10, 0),
            Self::Ppc64 => traits(0x8000_0015, 11, 0),
            Self::Ppc64le => traits(0xc000_0015, 11, 0),
            Self::Riscv64 => traits(0xc000_00f3, 12, 0),
            Self::S390 => traits(0x0000_0016, 13, 0),
            Self::S390x => traits(0x8000_0016, 14, 0),
            Self::Loongarch64 => traits(0xc000_0102, 15, 0),
        }
    }

    /// What the kernel puts into `seccomp_data.arch` (`AUDIT_ARCH_*`). x32 has
    /// that of x86_64.
    #[must_use]
    pub const fn token(self) -> u32 {
        self.traits().token
    }

    /// Whether arguments are compared as 64 bits; else their low 32 bits are.
    pub(crate) const fn is_wide(self) -> bool {
        self.traits().wide
    }

    pub(crate) const fn is_big_endian(self) -> bool {
        self.traits().big_endian
    }

    /// The number of `call` here, as it stands in `seccomp_data.nr`.
    pub(crate) fn number(self, call: Call) -> Option<u32> {
        let Traits { column, first, .. } = self.traits();
        let row = *call.row()?.1.get(column)?;
        match row {
            ABSENT => None,
            row if self == Self::Arm && row >= ARM_PRIVATE_ROW => {
                Some(ARM_PRIVATE + u32::from(row - ARM_PRIVATE_ROW))
            }
            row => Some(first + u32::from(row)),
        }
    }

    /// The number of the call `name` on this architecture, as it stands in
    /// `seccomp_data.nr`; `None` if there is none.
    #[must_use]
    pub fn syscall(self, name: &str) -> Option<u32> {
        self.number(Call::named(name)?)
    }
}

/// A system call by its row in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call(u16);

impl Call {
    pub fn named(name: &str) -> Option<Self> {
        let prefix = prefix(name);
        let first = PREFIXES.partition_point(|&known| known < prefix);
        let rows = TABLE.get(first..)?.iter().zip(PREFIXES.get(first..)?);
        let alike = rows.take_while(|(_, known)| **known == prefix);
        let row = alike.map(|((known, ..), _)| *known).position(|known| known == name)?;
        u16::try_from(first + row).ok().map(Self)
    }

    pub fn name(self) -> &'static str {
        self.row().map_or("", |(name, ..)| name)
    }

    /// The call that this one can also, or only, be reached by on the
    /// architectures that have it, and the first argument that selects it there
    /// (linux/net.h, linux/ipc.h).
    pub fn multiplexer(self) -> Option<(Self, u8)> {
        let &(.., selector) = self.row()?;
        let by = match selector / 100 {
            1 => "socketcall",
            2 => "ipc",
            _ => return None,
        };
        Some((Self::named(by)?, (selector % 100) as u8))
    }

    fn row(self) -> Option<&'static (&'static str, [u16; 16], u16)> {
        TABLE.get(usize::from(self.0))
    }
}

/// The beginning of each name in the table: numbers are found sooner than texts, and
/// few names share theirs.
static PREFIXES: [u64; TABLE.len()] = {
    let mut prefixes = [0; TABLE.len()];
    let mut row = 0;
    while row < TABLE.len() {
        prefixes[row] = prefix(TABLE[row].0);
        row += 1;
    }
    prefixes
};

/// The first eight bytes as a number, in the order of the texts.
const fn prefix(name: &str) -> u64 {
    match name.as_bytes().first_chunk() {
        Some(&first) => u64::from_be_bytes(first),
        None => {
            let mut number = 0;
            let mut position = 0;
            while position < name.len() {
                number |= (name.as_bytes()[position] as u64) << (56 - 8 * position);
                position += 1;
            }
            number
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::COLUMNS;

    #[test]
    fn the_table_is_sorted_so_that_it_can_be_searched() {
        assert!(TABLE.is_sorted_by(|(a, ..), (b, ..)| a < b));
    }

    #[test]
    fn each_architecture_reads_its_own_column() {
        for arch in Arch::ALL {
            let label = arch.name().trim_start_matches("SCMP_ARCH_").to_lowercase();
            let column = COLUMNS[arch.traits().column];
            // Byte order does not change the numbers.
            assert_eq!(label.replace("mipsel", "mips").trim_end_matches("le"), column);
        }
    }

    #[test]
    fn every_constant_of_the_specification_but_three_is_known() {
        for arch in Arch::ALL {
            let spec: oci::Arch = arch.name().parse().unwrap();
            assert_eq!(Arch::from_spec(spec, Arch::X86_64), Some(arch));
        }
        assert_eq!(Arch::from_spec(oci::Arch::ScmpArchNative, Arch::Aarch64), Some(Arch::Aarch64));
        for unknown in [oci::Arch::ScmpArchM68k, oci::Arch::ScmpArchSh, oci::Arch::ScmpArchSheb] {
            assert_eq!(Arch::from_spec(unknown, Arch::X86_64), None);
        }
    }

    #[test]
    fn sockets_and_ipc_are_multiplexed() {
        let multiplexer =
            |name| Call::named(name)?.multiplexer().map(|(by, selector)| (by.name(), selector));
        assert_eq!(multiplexer("socket"), Some(("socketcall", 1)));
        assert_eq!(multiplexer("sendmmsg"), Some(("socketcall", 20)));
        assert_eq!(multiplexer("shmctl"), Some(("ipc", 24)));
        assert_eq!(multiplexer("read"), None);
        assert_eq!(TABLE.iter().filter(|(.., selector)| *selector != 0).count(), 20 + 12);
    }

    #[test]
    fn numbers_are_the_kernels() {
        for (arch, name, number) in [
            (Arch::X86_64, "read", Some(0)),
            (Arch::X32, "read", Some(X32_BIT)),
            (Arch::X32, "execve", Some(X32_BIT + 520)),
            (Arch::X86, "read", Some(3)),
            (Arch::Arm, "set_tls", Some(0x0f_0005)),
            (Arch::Mips, "read", Some(4003)),
            (Arch::Mips64, "read", Some(5000)),
            (Arch::Mipsel64n32, "read", Some(6000)),
            (Arch::X86_64, "file_setattr", Some(469)),
            (Arch::X86_64, "uretprobe", Some(335)),
            (Arch::X32, "uretprobe", Some(X32_BIT + 335)),
            (Arch::X86, "uretprobe", None),
            (Arch::X32, "uprobe", Some(X32_BIT + 336)),
            (Arch::X32, "map_shadow_stack", Some(X32_BIT + 453)),
            (Arch::Aarch64, "open", None),
            (Arch::X86_64, "no_such_call", None),
        ] {
            assert_eq!(arch.syscall(name), number, "{name} on {}", arch.name());
        }
    }

    #[test]
    fn the_beginnings_of_names_are_in_the_order_of_the_names() {
        for names in ["accept", "accept4", "read", "readahead", "readlink", "write"].windows(2) {
            assert!(prefix(names[0]) < prefix(names[1]), "{names:?}");
        }
        assert!(PREFIXES.is_sorted());
    }
}
