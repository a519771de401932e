//! As much of D-Bus as a program needs that asks systemd for something and ends.
//!
//! It calls methods and listens for signals over one socket, blocks with a bound, has one
//! thread and no state but the bytes that have come. What a message looks like is a function
//! of values ([`Message`], [`Value`]); [`Connection`] alone makes kernel calls.
//!
//! # Why not a library
//!
//! A container lives for milliseconds while it is created, and its runtime is one static
//! program with one thread. The libraries bring an executor or a C library, and all of them
//! talk before they ask: authentication, its answer, a name, its answer, and then the call.
//! Here everything goes out with the first write, and the answers are read as they come. What
//! is needed of the protocol are five calls, one signal and ten types.
//!
//! The specification: <https://dbus.freedesktop.org/doc/dbus-specification.html>.

mod address;
mod connection;
mod message;
mod value;

pub use address::{Address, BadAddress, addresses};
pub use connection::{Connection, Error, Peer};
pub use message::{Call, Kind, Malformed, Message, length};
pub use value::Value;
