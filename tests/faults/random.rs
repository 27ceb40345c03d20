//! The randomised run: random changes and faults, then quiet, then everything must be as desired.
//!
//! Input: a seed and a duration. Output: what was done, or the first thing that is not as desired.
//! Invariants: the same seed plays the same steps in the same order. The model knows what users
//! asked for; the checks compare the cluster with it.

mod checks;
mod model;
mod steps;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::random_numbers::RandomNumbers;
use model::Scene;

/// Plays random steps for this long, ends all faults, and checks everything.
pub async fn play(seed: u64, duration: Duration) -> Result<()> {
    println!("random run with seed {seed} for {duration:?}");
    let mut scene = Scene::start(&format!("random-{seed}")).await?;
    let mut random = RandomNumbers::new(seed);
    let memory = scene.world.operator()?.rss_kib()?;
    let (start, mut count) = (Instant::now(), 0_u64);
    while start.elapsed() < duration {
        let step = steps::choose(&mut random);
        steps::play(&mut scene, step, &mut random)
            .await
            .with_context(|| format!("step {count}: {step:?}"))?;
        count += 1;
        tokio::time::sleep(random.span(Duration::from_millis(150))).await;
    }
    scene.end_faults().await?;
    let quiet = Instant::now();
    let lost = checks::until_as_desired(&scene).await?;
    println!(
        "as desired {:.1} s after {count} steps, {lost} edits of users repeated: {}",
        quiet.elapsed().as_secs_f64(),
        scene.summary()
    );
    checks::ensure_at_rest(&scene).await?;
    checks::ensure_memory_is_back(&scene, memory)?;
    println!("at rest: nothing more is written, and the memory is back");
    scene.world.finish().await
}
