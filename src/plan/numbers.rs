//! Numbers that say one thing to whoever writes them and another to the kernel.
//!
//! tests/numbers.rs has the table of all numbers of a configuration.

use anyhow::{Context as _, Result, bail};

/// Checks the id of a user or a group. The last one is none: setresuid(2) and chown(2)
/// take it for "leave what is there", which for a container's program is root.
pub fn id(id: u32) -> Result<u32> {
    if id == u32::MAX {
        bail!("{id}: stands for no id");
    }
    Ok(id)
}

/// Reads an id of digits only: a sign, a blank or a number past 32 bits is none. Whoever
/// shows the error has the text.
pub fn parse_id(text: &str) -> Result<u32> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        bail!("not a number");
    }
    id(text.parse().ok().context("past the last id")?)
}

/// Checks the major number of a device. Of a larger one the kernel would drop the upper
/// bits, so that it named another device (MKDEV of linux/kdev_t.h).
pub fn major(number: i64) -> Result<u32> {
    device_number(number, 12)
}

/// Checks the minor number of a device, likewise.
pub fn minor(number: i64) -> Result<u32> {
    device_number(number, 20)
}

fn device_number(number: i64, bits: u32) -> Result<u32> {
    match u32::try_from(number) {
        Ok(small) if small < 1 << bits => Ok(small),
        _ => bail!("{number}: not a device number"),
    }
}

/// The highest processor or node that a process can be bound to.
pub(crate) const HIGHEST: usize = 1023;

/// A list of numbers such as `0-3,7` as a bit mask, lowest first.
pub(crate) fn bit_mask(list: &str, highest: usize) -> Result<Vec<u64>> {
    let mut mask: Vec<u64> = Vec::new();
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.trim().parse::<usize>();
        let (Ok(first), Ok(last)) = (number(first), number(last)) else {
            bail!("{range:?}: not a number or a range");
        };
        if first > last || last > highest {
            bail!("{range:?}: not a range up to {highest}");
        }
        for number in first..=last {
            if mask.len() <= number / 64 {
                mask.resize(number / 64 + 1, 0);
            }
            if let Some(word) = mask.get_mut(number / 64) {
                *word |= 1 << (number % 64);
            }
        }
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_digits_and_not_the_last_one() {
        assert_eq!(parse_id("0").unwrap(), 0);
        assert_eq!(parse_id("4294967294").unwrap(), 4_294_967_294);
        for wrong in ["", "root", "-1", "+1", " 1", "4294967296", "4294967295"] {
            assert!(parse_id(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_device_number_fits_into_the_kernels() {
        assert_eq!((major(0xfff).unwrap(), minor(0xf_ffff).unwrap()), (0xfff, 0xf_ffff));
        assert_eq!(major(0x1000).unwrap_err().to_string(), "4096: not a device number");
        for wrong in [-1, 0x10_0000, i64::from(u32::MAX), i64::MAX] {
            assert!(minor(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lists_of_numbers_become_masks() {
        let mask = |list| bit_mask(list, HIGHEST);
        assert!(mask("").unwrap().is_empty());
        assert_eq!(mask("0-2,5").unwrap(), [0b10_0111_u64]);
        assert_eq!(mask("64").unwrap(), [0_u64, 1]);
        assert_eq!(mask("63").unwrap(), [1_u64 << 63]);
        assert_eq!(mask("64,0,127").unwrap(), [1_u64, 1 | 1 << 63]);
        assert_eq!(mask("0,64").unwrap(), [1_u64, 1]);
        assert_eq!(mask("128,64").unwrap(), [0_u64, 1, 1]);
        assert_eq!(mask(" 3 , 1 - 1,").unwrap(), [0b1010_u64]);
        assert_eq!(mask("1023").unwrap().len(), 16);
        for wrong in ["a", "3-1", "-1", "1024", "0-1024"] {
            assert!(mask(wrong).is_err(), "{wrong}");
        }
    }
}
