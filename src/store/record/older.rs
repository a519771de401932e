//! Records of older versions, made into what they would be today.
//!
//! A version whose record went out keeps its reader here. Where only the meaning of a
//! field has changed, the reader is a step; where the shape has, it gets a structure.

use anyhow::Result;

use super::{Record, VERSION};
use crate::processes::ProcessId;

/// Brings a record up to this version, step by step.
pub fn upgrade(mut record: Record) -> Result<Record> {
    if record.version == 1 {
        let upgrade = |process: Option<ProcessId>| process.map(ProcessId::of_version_1).transpose();
        record.creator = upgrade(record.creator)?;
        record.init = upgrade(record.init)?;
    }
    record.version = VERSION;
    Ok(record)
}

impl ProcessId {
    /// Version 1 wrote start times as its creator's time namespace showed them. That was
    /// the reader's own, or the process would not have been found then either.
    fn of_version_1(self) -> Result<Self> {
        Self::as_shown(self.pid, self.started)
    }
}
