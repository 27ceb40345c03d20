//! The key of a config.

/// Project and config.
pub(super) type ConfigId = (String, String);
