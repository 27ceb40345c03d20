//! A machine that starts no further thread, as at the bound on processes of a pod.
//!
//! Input: none. Output: the case.
//! Invariants: the runtime panics in each task that resolves a name then, which shows a panic on the
//! operator as it is released.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::prefect::Block;

use super::{spec, world};
use crate::case::{Case, Group, Playing, Seen};
use crate::relay::{Mode, Relay};
use crate::shim::Shim;
use crate::stage::{after, before, recovered};
use crate::world::{Setup, World, secret};

/// `EAGAIN`: `pthread_create` says that the bound on threads is reached.
const TRY_AGAIN: i64 = 11;

/// The case.
pub fn case() -> Case {
    Case::new(
        Group::Process,
        "no thread can be started, so that tasks panic",
        "The process goes on, other bindings are served meanwhile, and each task starts again by itself.",
        || -> Playing { Box::pin(tasks_panic()) },
    )
}

/// The number of threads of the operator.
fn threads(world: &World) -> Result<usize> {
    let pid = world.operator()?.process().pid();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"))?;
    Ok(threads.count())
}

/// How often tasks of this kind panicked.
async fn panics(world: &World, task: &str) -> Result<u64> {
    let metrics = world.operator()?.metrics().await?;
    let label = format!("doppler_prefect_task_panics_total{{task=\"{task}\"}} ");
    let count = metrics.lines().find_map(|line| line.strip_prefix(&label));
    Ok(count.map_or(Ok(0), str::parse)?)
}

async fn tasks_panic() -> Result<Seen> {
    let shim = Shim::build()?;
    let setup = Setup {
        env: shim.env(),
        ..Setup::default()
    };
    let hosts = "http://127.0.0.1:*,http://localhost:*";
    let world = world(
        "process-threads",
        setup.args(&["--allowed-prefect-host", hosts]),
    )
    .await?;
    shim.ensure_loaded()?;
    let token = format!("dp.sa.{}", secret("threads"));
    world.doppler.add_account_token(&token);
    world.doppler.replace(&world.name, "stg", after());
    world.doppler.replace(&world.name, "other", before());
    let other = format!("dp.st.other.{}", secret("threads"));
    world
        .doppler
        .add_service_token(&other, &world.name, "other");
    let mut direct = world.direct_spec().await?;
    direct["doppler"]["config"] = json!("other");
    world.put_token("token", &other).await?;
    world.apply_binding("other", &direct).await?;

    let relay = Relay::start(([127, 0, 0, 1], world.prefect.port()).into()).await?;
    let mut by_name = spec(&world);
    let url = format!("http://localhost:{}/api", relay.port());
    by_name["prefect"]["server"]["remoteApiUrl"] = json!(url);
    world.apply_binding("b", &by_name).await?;
    world.until_ready("b").await?;
    world.until_ready("other").await?;

    // The thread that resolved the name ends when it has nothing to do: the connections stay.
    let workers = std::thread::available_parallelism()?.get();
    shim.refuse_threads(TRY_AGAIN)?;
    world
        .until("the end of idle threads", async || {
            let now = threads(&world)?;
            ensure!(now <= workers + 1, "{now} threads");
            Ok(())
        })
        .await?;
    let start = Instant::now();
    relay.set(Mode::Forward);
    for task in ["poller", "subscription", "pool"] {
        world
            .until(&format!("a panic of a {task}"), async || {
                let count = panics(&world, task).await?;
                ensure!(
                    count > 0,
                    "{} threads were refused",
                    shim.refused_threads()?
                );
                Ok(())
            })
            .await
            .context("no task of this kind panicked")?;
    }
    world.doppler.replace(&world.name, "other", after());
    recovered(&world, "other", &after(), Instant::now()).await?;
    world.operator()?.is_ready().await?;
    let mut counted = 0;
    for task in ["poller", "subscription", "pool"] {
        counted += panics(&world, task).await?;
    }
    let (lasted, mended) = (start.elapsed(), Instant::now());
    shim.refuse_threads(0)?;
    let block = Block::object(&world.name, "stg", &token);
    world.api.put_block(&world.name, &block).await?;
    world
        .until_within(Duration::from_mins(2), "the newest values", async || {
            ensure!(world.values("b").await? == after(), "not yet");
            Ok(())
        })
        .await?;
    let recovery = recovered(&world, "b", &after(), mended).await?;
    world.finish().await?;
    Ok(Seen {
        what: format!(
            "{counted} panics of pollers, subscriptions and pools; the other binding got its change"
        ),
        requests: None,
        lasted: Some(lasted),
        recovery: Some(recovery),
    })
}
