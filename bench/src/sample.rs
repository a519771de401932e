//! What one run of a program cost, and what many runs say together.

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// The cost of one program and of the children that it waited for, by wait4(2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Milliseconds of processor time, the kernel's included.
    pub cpu: f64,
    /// Milliseconds from its start to its end.
    pub wall: f64,
    /// Peak resident memory of the largest of its processes, in KiB.
    pub peak: f64,
    /// Page faults, minor and major.
    pub faults: f64,
    /// Context switches, voluntary and not.
    pub switches: f64,
    /// Instructions outside of the kernel, where they were counted.
    pub instructions: Option<f64>,
}

impl Sample {
    /// Reads what the launcher wrote: wait status, nanoseconds, `struct rusage`, instructions.
    ///
    /// # Errors
    /// Where it is shorter, which means that the launcher failed.
    pub fn parse(record: &[u8]) -> Result<(i64, Self)> {
        let word = |index: usize| -> Result<f64> { Ok(integer(record, index)? as f64) };
        let milliseconds =
            |index| Ok::<_, anyhow::Error>(word(index)? * 1e3 + word(index + 1)? / 1e3);
        let sample = Self {
            wall: word(1)? / 1e6,
            cpu: milliseconds(2)? + milliseconds(4)?,
            peak: word(6)?,
            faults: word(10)? + word(11)?,
            switches: word(18)? + word(19)?,
            instructions: Some(word(20)?).filter(|&count| count >= 0.0),
        };
        Ok((integer(record, 0)?, sample))
    }
}

fn integer(record: &[u8], index: usize) -> Result<i64> {
    let bytes = record.get(8 * index..8 * index + 8).context("the launcher wrote too little")?;
    Ok(i64::from_ne_bytes(bytes.try_into()?))
}

/// Many runs of the same thing. All but the number and the tail are medians.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many runs.
    pub runs: usize,
    /// Milliseconds of processor time.
    pub cpu: f64,
    /// Milliseconds of processor time, the least of all runs.
    pub cpu_least: f64,
    /// Milliseconds of wall time.
    pub wall: f64,
    /// Milliseconds of wall time that 99 of 100 runs did not exceed.
    pub wall_p99: f64,
    /// Peak resident memory in KiB.
    pub peak: f64,
    /// Page faults.
    pub faults: f64,
    /// Context switches.
    pub switches: f64,
    /// Instructions outside of the kernel, in runs of their own, where the machine counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<f64>,
}

impl Summary {
    /// Of no runs there is none.
    pub fn of(samples: &[Sample]) -> Option<Self> {
        let at =
            |part, field: fn(&Sample) -> f64| percentile(&sorted(samples.iter().map(field)), part);
        Some(Self {
            runs: samples.len(),
            cpu: at(0.5, |sample| sample.cpu)?,
            cpu_least: at(0.0, |sample| sample.cpu)?,
            wall: at(0.5, |sample| sample.wall)?,
            wall_p99: at(0.99, |sample| sample.wall)?,
            peak: at(0.5, |sample| sample.peak)?,
            faults: at(0.5, |sample| sample.faults)?,
            switches: at(0.5, |sample| sample.switches)?,
            instructions: median(samples.iter().filter_map(|sample| sample.instructions)),
        })
    }
}

/// The median of all values; none of none.
pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    percentile(&sorted(values), 0.5)
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The smallest value that this part of all values does not exceed (nearest rank).
pub fn percentile(sorted: &[f64], part: f64) -> Option<f64> {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        for (part, expected) in [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)] {
            assert_eq!(percentile(&hundred, part), Some(expected), "{part}");
        }
        assert_eq!(percentile(&[7.0], 0.99), Some(7.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn the_launchers_record_is_read_as_the_kernel_lays_it_out() {
        let mut words = [0_i64; 21];
        words[0] = 256; // exit(1)
        words[1] = 2_500_000; // wall, ns
        words[2..6].copy_from_slice(&[1, 2_000, 0, 500]); // user, system: s, us
        words[6] = 1_260; // ru_maxrss
        words[10..12].copy_from_slice(&[45, 1]); // ru_minflt, ru_majflt
        words[18..20].copy_from_slice(&[6, 2]); // ru_nvcsw, ru_nivcsw
        words[20] = 700; // instructions
        let record = |words: &[i64]| -> Vec<u8> {
            words.iter().flat_map(|word| word.to_ne_bytes()).collect()
        };
        let (status, sample) = Sample::parse(&record(&words)).unwrap();
        assert_eq!(status, 256);
        let expected = Sample {
            cpu: 1002.5,
            wall: 2.5,
            peak: 1260.0,
            faults: 46.0,
            switches: 8.0,
            instructions: Some(700.0),
        };
        assert_eq!(sample, expected);
        assert!(Sample::parse(&record(&words)[..100]).is_err());
        words[20] = -1; // not counted
        assert_eq!(Sample::parse(&record(&words)).unwrap().1.instructions, None);
    }

    #[test]
    fn nothing_measured_has_no_summary() {
        assert_eq!(Summary::of(&[]), None);
    }
}
