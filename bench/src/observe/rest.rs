//! Whether a subject has come to rest.
//!
//! In: a scene and the subject's process. Out: the word that it has nothing to do and writes nothing any more. Events that it holds back for later
//! are something to do.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::sleep;

use super::process::Usage;
use crate::scene::Scene;

const SAMPLE: Duration = Duration::from_secs(1);
/// A process that does this much of a core has nothing to do.
const QUIET: f64 = 0.03;
const LIMIT: Duration = Duration::from_mins(5);

/// Waits until, for two seconds on end, the process had nothing to do and wrote nothing. True if it came to that.
///
/// # Errors
/// When the process ends, or the API server does not tell what it was asked.
pub async fn at_rest(scene: &Scene<'_>, pid: u32) -> Result<bool> {
    let deadline = Instant::now() + LIMIT;
    let mut calm = 0;
    let mut usage = Usage::of(pid)?;
    let mut requests = scene.ledger.read(scene.plane).await?;
    while Instant::now() < deadline {
        sleep(SAMPLE).await;
        let (now, asked) = (Usage::of(pid)?, scene.ledger.read(scene.plane).await?);
        let is_calm = now.share_since(&usage) < QUIET && asked == requests;
        calm = if is_calm { calm + 1 } else { 0 };
        if calm == 2 {
            return Ok(true);
        }
        (usage, requests) = (now, asked);
    }
    Ok(false)
}
