//! The order of removal: the entry, a wait, the Secret, the finalizer.
//!
//! Input: a world with a pool of its name.
//! Output: what remains of a binding, and a wait until nothing does.
//! Invariants: reads in the order of removal, so that it cannot see a wrong order by chance.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::work_pools::template;
use crate::world::{Setup, World, secret};

/// Long enough to be measured.
pub(super) const CLEANUP_DELAY: Duration = Duration::from_secs(3);

pub(super) async fn world(name: &str, setup: Setup) -> Result<World> {
    let world = World::with(name, setup).await?;
    world.set_doppler_secret("SECRET_API_KEY", &secret("1234567890"));
    world.create_pool(name, &template(name)).await?;
    Ok(world)
}

pub(super) fn with_cleanup_delay() -> Setup {
    Setup {
        release_wait: "3s",
        ..Setup::default()
    }
}

/// What remains of one Secret during cleanup.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Remaining {
    pub(super) entry: bool,
    pub(super) secret: bool,
    pub(super) binding: bool,
}

pub(super) async fn remaining(world: &World, binding: &str, secret: &str) -> Result<Remaining> {
    // In the order of removal, so that reads at different times cannot show a wrong order.
    let entry = world
        .sources(&world.name)
        .await?
        .contains(&secret.to_owned());
    let secret = world.secrets().get_opt(secret).await?.is_some();
    let binding = world.bindings().get_opt(binding).await?.is_some();
    Ok(Remaining {
        entry,
        secret,
        binding,
    })
}

/// Waits until nothing remains, and fails if the Secret was deleted before its entry or too early.
pub(super) async fn assert_removed_in_order(
    world: &World,
    binding: &str,
    secret: &str,
    wait: Duration,
) -> Result<()> {
    let mut removed_since = None;
    world
        .until(
            &format!("{binding} and {secret} to be deleted"),
            async || {
                let before = Instant::now();
                let remaining = remaining(world, binding, secret).await?;
                if !remaining.entry && removed_since.is_none() {
                    removed_since = Some(before);
                }
                if remaining.entry && !remaining.secret {
                    // Read again, because the entry was read before the Secret.
                    let entry = world
                        .sources(&world.name)
                        .await?
                        .contains(&secret.to_owned());
                    assert!(!entry, "the entry exists and the Secret does not");
                }
                if !remaining.secret {
                    let since = removed_since.context("the entry")?.elapsed();
                    // One round of reads takes some time as well.
                    assert!(
                        since + Duration::from_millis(700) >= wait,
                        "the Secret was deleted {since:?} after the entry"
                    );
                }
                ensure!(
                    !remaining.entry && !remaining.secret && !remaining.binding,
                    "{remaining:?}"
                );
                Ok(())
            },
        )
        .await
}
