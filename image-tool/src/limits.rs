//! Bounds on everything a registry or an image can make endless.
//!
//! They are far above what real images need; an image that meets one of them
//! is refused with an error that names the bound.

use std::time::Duration;

/// A manifest or an index, in bytes: what registries themselves accept.
pub const MANIFEST_BYTES: u64 = 4 << 20;
/// An image configuration, in bytes.
pub const CONFIG_BYTES: u64 = 4 << 20;
/// The reply of a token server, in bytes.
pub const TOKEN_BYTES: u64 = 1 << 20;
/// The reply of a credential helper, in bytes.
pub const HELPER_BYTES: u64 = 1 << 20;
/// The part of an error reply that is read for its message, in bytes.
pub const ERROR_BYTES: u64 = 16 << 10;
/// Redirects followed for one request.
pub const REDIRECTS: usize = 10;
/// Indexes inside an index, counted from the one the reference names.
pub const INDEX_DEPTH: usize = 2;
/// Indexes fetched for one image.
pub const INDEXES: usize = 8;
/// Layers of one image. Overlay file systems stop at 500.
pub const LAYERS: usize = 500;
/// Tar entries of one image, and the directories they imply.
pub const ENTRIES: u64 = 2_000_000;
/// Paths of one layer that are remembered for its whiteouts.
pub const TOUCHED_PATHS: usize = 4_000_000;
/// The paths of all directories, which wait for their times; in bytes.
pub const DIRECTORY_BYTES: usize = 64 << 20;
/// Components of one path in a layer.
pub const PATH_DEPTH: usize = 256;
/// Extended headers of one tar entry (long names, xattrs), in bytes.
pub const EXTENDED_HEADER_BYTES: u64 = 1 << 20;
/// The window a zstd layer may ask for, as a power of two: 128 MiB.
pub const ZSTD_WINDOW_LOG: u32 = 27;
/// `/etc/passwd` or `/etc/group` of an image, in bytes.
pub const USER_DATABASE_BYTES: u64 = 4 << 20;
/// A seccomp profile, in bytes.
pub const PROFILE_BYTES: u64 = 4 << 20;

/// How long a server may take to accept a connection or to answer a request.
pub const ANSWER: Duration = Duration::from_secs(30);
/// A body must bring [`PACE_BYTES`] in every such span of waiting.
pub const PACE: Duration = Duration::from_secs(30);
/// See [`PACE`].
pub const PACE_BYTES: u64 = 30 << 10;
/// How long a credential helper may take, which may have to ask its user.
pub const HELPER: Duration = Duration::from_secs(120);
