//! The operator on real parts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod chart;
mod image;
