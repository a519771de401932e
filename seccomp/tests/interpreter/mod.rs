//! What the kernel does with a filter, in user space.

use ferrun_seccomp::{Arch, Instruction};

/// A system call as a filter sees it (`struct seccomp_data`), in 32-bit words
/// of the byte order of the architecture.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    words: [u32; 16],
}

impl Call {
    /// The call `number` of `arch`.
    pub fn new(arch: Arch, number: u32, arguments: [u64; 6]) -> Self {
        let token = arch.token();
        // The bit of AUDIT_ARCH_* for little endian.
        let little_endian = token & 0x4000_0000 != 0;
        let mut words = [0; 16];
        words[0] = number;
        words[1] = token;
        for (i, argument) in arguments.into_iter().enumerate() {
            let (low, high) = (argument as u32, (argument >> 32) as u32);
            let pair = if little_endian { [low, high] } else { [high, low] };
            words[4 + 2 * i..][..2].copy_from_slice(&pair);
        }
        Self { words }
    }
}

/// Runs `program` on `call`; panics where the kernel would refuse the program.
pub fn run(program: &[Instruction], call: &Call) -> u32 {
    let mut accumulator = 0;
    let mut at = 0;
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let mut branch = |condition| at += usize::from(if condition { jt } else { jf });
        match code {
            0x20 => {
                assert_eq!(k % 4, 0, "unaligned load");
                accumulator = call.words[k as usize / 4];
            }
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => branch(accumulator == k),
            0x25 => branch(accumulator > k),
            0x35 => branch(accumulator >= k),
            0x45 => branch(accumulator & k != 0),
            0x06 => return k,
            _ => panic!("unknown instruction {code:#x} at {}", at - 1),
        }
    }
}
