//! Memory while upstreams send answers that are small as text and large once they are decoded.
//!
//! Input: a Prefect server that the author of a binding controls, and templates of files.
//! Output: the peak of the operator's resident memory, and the reason in each condition.

mod hostile;
mod templates;

use anyhow::{Context, Result, ensure};

use crate::work_pools::template;
use crate::world::{Setup, World, secret};
use hostile::{HostileServer, Input};

/// By how much the peak may exceed the memory without bindings, in KiB. The unoptimised binary of the
/// tests needs more memory from the start than a released one.
const MAX_GROWTH_KIB: u64 = 40 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn peak_stays_low_while_answers_unfold() -> Result<()> {
    let w = World::with("memory", Setup::default()).await?;
    w.set_doppler_secret("A", &secret("a"));
    let server = HostileServer::start(&w, &template(&w.name)).await?;
    let before = w.operator()?.peak_kib()?;
    // The sockets are a case of `cargo faults`.
    let inputs = || {
        Input::ALL
            .into_iter()
            .filter(|input| *input != Input::Sockets)
    };
    for input in inputs() {
        server.apply(&w, input).await?;
    }
    for input in inputs() {
        let reported = server.until_reported(&w, input).await;
        reported.with_context(|| input.title())?;
    }
    let peak = w.operator()?.peak_kib()?;
    let growth = peak.saturating_sub(before);
    ensure!(
        growth <= MAX_GROWTH_KIB,
        "the peak is {peak} KiB, {growth} KiB above {before} KiB"
    );
    w.finish().await
}
