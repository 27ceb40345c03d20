//! The Kubernetes Secret of a binding: what it should hold, whose it is, and the writes that bring it there.
//!
//! In: a binding's spec and the values that Doppler gave. Out: a POST, a JSON Patch guarded by resourceVersion, or nothing. In reading order:
//! [`key_filter`] (which names), [`content_hash`] (keyed content hash), [`desired`] (the whole Secret, pure), [`observed`] (what is known of the one that is
//! there), [`decide`] (what to do, pure), [`patch`] (how, pure), [`error`], [`client`] (the requests), [`hash_key`] (the installation's hash key).
//! This room never lists, never watches, and never speaks to Prefect or Doppler.

pub mod client;
pub mod content_hash;
pub mod decide;
pub mod desired;
pub mod error;
pub mod hash_key;
pub mod key_filter;
pub mod observed;
pub mod patch;

pub use client::{FetchedSecret, SecretClient, WrittenSecret};
pub use content_hash::HashKey;
pub use decide::{Claimant, Decision, Target, UpdateReason, decide};
pub use desired::{Desired, DesiredInput, SecretError, desired, owner_reference};
pub use error::WriteError;
pub use hash_key::{HashKeyError, load_or_create_hash_key};
pub use observed::{DataOwnership, ObservedSecret};
