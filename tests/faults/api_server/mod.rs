//! Faults of the API server and of what others do there.
//!
//! Input: none. Output: the cases of group `ApiServer`.
//! Invariants: the group has a control plane of its own and plays its cases one after the other,
//! because most of them concern the whole server. Each case has its own operator.

mod admission;
mod objects;
mod outages;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::control_plane::{ControlPlane, Options};
use tokio::sync::{Mutex, OnceCell};

use crate::case::{Case, Group, Playing, Seen};
use crate::stage::{after, before, recovered};
use crate::world::{CRD, Setup, World};

static PLANE: OnceCell<&'static ControlPlane> = OnceCell::const_new();
/// Held while a case is played.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Longer than the operator's longest wait between two attempts at the API server.
const RECOVERY_LIMIT: Duration = Duration::from_mins(2);

const RESUMES: &str =
    "The Secret keeps its values, the process goes on, and the newest values arrive after the end.";
const REFUSED: &str = "The condition says who refuses the write, writes stay few, and the newest values arrive after the end.";

/// The cases.
pub fn cases() -> Vec<Case> {
    let case = |fault: &str, must_hold: &'static str, play: fn() -> Playing| {
        Case::new(Group::ApiServer, fault, must_hold, move || async move {
            let _one = ONE_AT_A_TIME.lock().await;
            play().await
        })
    };
    vec![
        case("restart", RESUMES, || Box::pin(outages::restart())).in_short_form(),
        case(
            "half-open: connections stay, nothing answers",
            RESUMES,
            || Box::pin(outages::paused("api-half-open", "kube-apiserver")),
        ),
        case("etcd does not answer", RESUMES, || {
            Box::pin(outages::paused("api-etcd", "etcd"))
        }),
        case(
            "410: the operator's last state was compacted",
            RESUMES,
            || Box::pin(outages::compacted()),
        ),
        case("429 for every request of the operator", RESUMES, || {
            Box::pin(outages::too_many_requests())
        }),
        case("a quota refuses the Secret", REFUSED, || {
            Box::pin(admission::quota())
        }),
        case("an admission policy refuses the Secret", REFUSED, || {
            Box::pin(admission::policy())
        })
        .in_short_form(),
        case("an admission webhook is down", REFUSED, || {
            Box::pin(admission::webhook_down())
        }),
        case("RBAC is taken and given back", REFUSED, || {
            Box::pin(admission::rbac_taken())
        }),
        case(
            "another client edits the Secret",
            "The operator writes the values of Doppler again.",
            || Box::pin(objects::secret_edited()),
        ),
        case(
            "another client edits the Secret all the time",
            "The operator does not fight: repairs become rare, and the values are right after the end.",
            || Box::pin(objects::secret_contested()),
        ),
        case(
            "another client deletes the Secret",
            "The operator creates it again.",
            || Box::pin(objects::secret_deleted()),
        ),
        case(
            "the CRD is deleted and applied again",
            "The process goes on, and a binding that is applied again gets its Secret.",
            || Box::pin(objects::crd_deleted()),
        ),
        case(
            "the CRD is rolled back to one without most of the status",
            "The operator does not write the status again and again, and values still arrive.",
            || Box::pin(objects::crd_rolled_back()),
        ),
        case(
            "the binding's namespace is deleted",
            "The namespace is gone in the end, and other namespaces are served.",
            || Box::pin(objects::namespace_deleted()),
        ),
        case(
            "the operator's token is rotated",
            "The operator reads the new token and goes on.",
            || Box::pin(outages::token_rotated()),
        ),
    ]
}

async fn plane() -> Result<&'static ControlPlane> {
    let plane = PLANE.get_or_try_init(async || {
        let options = Options {
            manifests: vec![CRD.to_owned()],
            ..Options::default()
        };
        // Clients outlive the cases; the servers end with this process.
        anyhow::Ok(&*Box::leak(Box::new(ControlPlane::start(options).await?)))
    });
    plane.await.copied()
}

/// A world with a Ready binding `b`.
async fn world(name: &str) -> Result<World> {
    world_with(name, setup().await?).await
}

async fn setup() -> Result<Setup> {
    let setup = Setup {
        plane: Some(plane().await?),
        ..Setup::default()
    };
    Ok(setup.args(&["--kubernetes-timeout", "3s", "--stale-after", "2s"]))
}

async fn world_with(name: &str, setup: Setup) -> Result<World> {
    let world = World::with(name, setup).await?;
    world.doppler.replace(name, "dev", before());
    world.apply_binding("b", &world.spec()).await?;
    world.until_ready("b").await?;
    world.until_values("b", &before()).await?;
    Ok(world)
}

/// Waits until `b` has the newest values, and ends the world.
async fn recovers(
    world: World,
    what: &str,
    requests: Option<u64>,
    start: Instant,
    mended: Instant,
) -> Result<Seen> {
    let binding = "b";
    let values = after();
    world
        .until_within(RECOVERY_LIMIT, "the newest values", async || {
            ensure!(
                world.values(binding).await? == values,
                "the values are older"
            );
            Ok(())
        })
        .await?;
    let recovery = recovered(&world, binding, &values, mended).await?;
    world.finish().await?;
    Ok(Seen {
        what: what.to_owned(),
        requests,
        lasted: Some(mended - start),
        recovery: Some(recovery),
    })
}

fn change(world: &World) {
    world.doppler.replace(&world.name, "dev", after());
}

/// The failed writes so far.
async fn failed_writes(world: &World) -> Result<u64> {
    let metrics = world.operator()?.metrics().await?;
    let failed = metrics.lines().filter(|line| {
        line.starts_with("doppler_prefect_kubernetes_writes_total{")
            && line.contains("outcome=\"error\"")
    });
    let counts = failed.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    Ok(counts.sum())
}

async fn until_failed_write(world: &World) -> Result<()> {
    let before = failed_writes(world).await?;
    world
        .until("a failed write", async || {
            ensure!(
                failed_writes(world).await? > before,
                "no write has failed yet"
            );
            Ok(())
        })
        .await
}
