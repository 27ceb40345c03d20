//! Who may read `/metrics`, as the API server decides.
//!
//! Input: requests of any client that reaches the port.
//! Output: the request passes, or the answer 401, 403 or 503.
//! Invariants: without the API server's consent no request passes. Tokens are neither kept nor
//! logged. Memory and the rate of reviews are bounded.
//!
//! Reading order: `decision` (from a request to reviews, and from reviews to the answer),
//! `answer_cache` (what is known of a token), `reviewer` (asks the API server).

mod answer_cache;
mod decision;
mod reviewer;

pub use reviewer::{Reviewer, authorized};
