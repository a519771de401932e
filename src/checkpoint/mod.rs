//! `checkpoint` and `restore`: a plan is made of what is found, CRIU carries it out, and what it
//! says on the way is answered.

mod allowed;
mod dump;
mod image;
mod restore;
mod tasks;

pub use self::dump::{CheckpointOptions, checkpoint};
pub use self::restore::{RestoreOptions, Restored, restore};
