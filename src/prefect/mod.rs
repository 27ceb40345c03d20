//! The Prefect server: where it is, the block on it, and its work pools.
//!
//! In: the binding's `server` stanza and the values it refers to. Out: block data, the three fields in it, pools. Only this room knows
//! Prefect's paths, headers and statuses.

pub mod block;
