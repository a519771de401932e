//! The engines that Debian 12 has, with the runtime under test.

mod compose;
mod docker;
mod leaks;
