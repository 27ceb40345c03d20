//! The size limits of a Secret.
//!
//! Input: none.
//! Output: limits in bytes.
//! Invariants: those of the API server and of etcd.

/// Limit of the values in bytes: the API server's `MaxSecretSize`, which counts values only.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// Limit of the whole object in bytes. etcd accepts requests of 1.5 MiB (1,572,864 bytes). In them,
/// values are raw (the API server stores protobuf, not base64) and each key occurs twice: in `data`
/// and in the managed fields. 64 KiB remain for metadata of others and for encryption at rest. The
/// request itself, with its base64 (4/3 of 1 MiB) and keys, stays below the 3 MiB that the API
/// server accepts.
pub const MAX_TOTAL_BYTES: usize = 1536 * 1024 - 64 * 1024;
