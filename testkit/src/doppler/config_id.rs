//! The key of a config.
//!
//! Input: the names of a project and a config.
//! Output: `ConfigId`.
//! Invariants: data only.

/// Project and config.
pub(super) type ConfigId = (String, String);
