//! The Kubernetes Secret of a binding: what it should hold, whose it is, and the writes that bring it there.
//!
//! In: a binding's spec and the values that Doppler gave. Out: a POST, a JSON Patch guarded by resourceVersion, or nothing. In reading order:
//! [`guard`] (which names), [`hash`] (keyed content hash), [`desired`] (the whole Secret, pure), [`facts`] (what is known of the one that is
//! there), [`judge`] (what to do, pure), [`patch`] (how, pure), [`error`], [`apply`] (the requests), [`key`] (the installation's hash key).
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

pub use client::{Found, Secrets, Written};
pub use content_hash::HashKey;
pub use decide::{Asker, Target, Verdict, Why, judge};
pub use desired::{Desired, Input, SecretError, desired, owner_reference};
pub use error::WriteError;
pub use hash_key::{KeyError, load_or_create_key};
pub use observed::{Data, Facts};
