//! ferrun.
pub mod error;
