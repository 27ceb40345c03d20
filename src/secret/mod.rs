//! The Kubernetes Secret of a binding: its desired content, its ownership, and the requests that
//! write it.
//!
//! Input: a binding's spec and the values from Doppler.
//! Output: a POST, a JSON Patch guarded by resourceVersion, or nothing.
//! Invariants: never lists or watches Secrets; never connects to Prefect or Doppler.
//!
//! Reading order: [`name_filter`] (which names the binding selects), [`merge`](mod@merge),
//! [`rename`](mod@rename), [`key_filter`] (which names may be keys), [`keys`](mod@keys) (these in order),
//! [`template`], [`format`](mod@format) and [`files`](mod@files), [`secret_type`], [`content_hash`] (keyed hash), [`metadata`], [`desired`](mod@desired) (the whole Secret, pure), [`observed`] (what the metadata of the
//! existing one shows), [`decide`](mod@decide) (what to do, pure), [`patch`] (how, pure),
//! [`error`], [`client`] (the requests), [`hash_key`] (the installation's hash key).

pub mod client;
pub mod conflict;
pub mod content_hash;
pub mod decide;
pub mod desired;
pub mod error;
pub mod files;
pub mod format;
pub mod hash_key;
pub mod key_filter;
pub mod keys;
pub mod limits;
pub mod merge;
pub mod metadata;
pub mod name_filter;
pub mod observed;
pub mod patch;
pub mod rename;
pub mod secret_type;
pub mod template;

pub use client::{FetchedSecret, SecretClient, WrittenSecret};
pub use content_hash::HashKey;
pub use decide::{Adoption, Claimant, Decision, Target, UpdateReason, decide};
pub use desired::{Desired, DesiredInput, SecretError, desired, owner_reference};
pub use error::WriteError;
pub use hash_key::{HashKeyError, load_or_create_hash_key};
pub use key_filter::{ForbiddenNames, InvalidForbiddenName};
pub use keys::SourceValues;
pub use observed::{DataOwnership, ObservedSecret};
