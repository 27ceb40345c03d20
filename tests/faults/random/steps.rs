//! The steps of a randomised run.
//!
//! Input: random numbers and the scene. Output: one change or one fault, in the servers and in the
//! model.
//! Invariants: a step that fails at a server changes no model.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Result;
use doppler_prefect_operator::crd::ClusterPrefectServer;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::model::{
    BINDINGS, BLOCKS, CONFIGS, Extra, POOLS, Scene, Source, VARIABLE, Wish, binding_name,
    secret_name,
};
use crate::random_numbers::RandomNumbers;
use crate::relay::Mode;
use crate::world::secret;

/// A copy of a template is late if it is written this long after it was read. It is shorter than the
/// time for which the operator keeps the record of an entry that it removed.
const LATE: Duration = Duration::from_secs(1);

/// A kind of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Apply,
    Replace,
    Delete,
    ChangeValue,
    ChangeBlock,
    DeleteBlock,
    EditTemplate,
    DropEntries,
    EditSecret,
    DeleteSecret,
    BreakDoppler,
    BreakPrefect,
    Mend,
    RevokeToken,
    RemoveIdentity,
    ForbidServer,
    DeleteServer,
    DeleteToken,
    Kill,
    Restart,
    Freeze,
    Refresh,
}

/// All steps; a step that stands here twice is twice as likely.
const STEPS: [Step; 31] = [
    Step::Apply,
    Step::Apply,
    Step::Apply,
    Step::Apply,
    Step::Replace,
    Step::Replace,
    Step::Delete,
    Step::Delete,
    Step::ChangeValue,
    Step::ChangeValue,
    Step::ChangeValue,
    Step::ChangeBlock,
    Step::ChangeBlock,
    Step::DeleteBlock,
    Step::EditTemplate,
    Step::DropEntries,
    Step::EditSecret,
    Step::DeleteSecret,
    Step::BreakDoppler,
    Step::BreakPrefect,
    Step::Mend,
    Step::Mend,
    Step::RevokeToken,
    Step::RemoveIdentity,
    Step::ForbidServer,
    Step::DeleteServer,
    Step::DeleteToken,
    Step::Kill,
    Step::Restart,
    Step::Freeze,
    Step::Refresh,
];

/// The next step.
pub fn choose(random: &mut RandomNumbers) -> Step {
    STEPS[random.below(STEPS.len())]
}

/// Plays a step.
pub async fn play(scene: &mut Scene, step: Step, random: &mut RandomNumbers) -> Result<()> {
    match step {
        Step::Apply => apply(scene, random).await,
        Step::Replace => replace(scene, random).await,
        Step::Delete => delete(scene, random).await,
        Step::ChangeValue => {
            let key = ["A", "B", "NEW", "MORE"][random.below(4)];
            let value = format!("value {}", random.below(1_000_000));
            scene.set(random.below(CONFIGS), key, &value);
            Ok(())
        }
        Step::ChangeBlock => {
            scene
                .put_block(random.below(BLOCKS), random.below(CONFIGS))
                .await
        }
        Step::DeleteBlock => {
            let block = random.below(BLOCKS);
            scene
                .world
                .api
                .delete_block("secret", &scene.block(block))
                .await?;
            tokio::time::sleep(random.span(Duration::from_secs(2))).await;
            scene.put_block(block, random.below(CONFIGS)).await
        }
        Step::EditTemplate => edit_template(scene, random, true).await,
        Step::DropEntries => edit_template(scene, random, false).await,
        Step::EditSecret => edit_secret(scene, random).await,
        Step::DeleteSecret => delete_secret(scene, random).await,
        Step::BreakDoppler => {
            scene.to_doppler.set(broken(random));
            Ok(())
        }
        Step::BreakPrefect => {
            scene.to_prefect.set(broken(random));
            Ok(())
        }
        Step::Mend => scene.end_faults().await,
        Step::RevokeToken => {
            scene.doppler.revoke(&scene.token());
            Ok(())
        }
        Step::RemoveIdentity => {
            scene.remove_identity();
            Ok(())
        }
        Step::ForbidServer => scene.put_shared_server(&["another"]).await,
        Step::DeleteServer => {
            let servers: Api<ClusterPrefectServer> = Api::all(scene.world.client.clone());
            let deleted = servers
                .delete(&scene.world.name, &DeleteParams::default())
                .await;
            // A step before may have deleted it.
            drop(deleted);
            Ok(())
        }
        Step::DeleteToken => {
            let deleted = scene.world.delete_secret("random").await;
            // A step before may have deleted it.
            drop(deleted);
            Ok(())
        }
        Step::Kill => {
            scene.world.kill_operator();
            scene.world.start_operator().await
        }
        Step::Restart => scene.world.restart_operator().await,
        Step::Freeze => {
            scene.world.operator()?.process().pause();
            tokio::time::sleep(random.span(Duration::from_secs(3))).await;
            scene.world.operator()?.process().resume();
            Ok(())
        }
        Step::Refresh => refresh(scene, random).await,
    }
}

fn broken(random: &mut RandomNumbers) -> Mode {
    let modes = [
        Mode::Refuse,
        Mode::Reset,
        Mode::Silent,
        Mode::json("500 Internal Server Error", "{}"),
        Mode::json("401 Unauthorized", "{}"),
        Mode::json("200 OK", "{}"),
        Mode::response("429 Too Many Requests", "retry-after: 1\r\n", ""),
        Mode::response(
            "502 Bad Gateway",
            "content-type: text/html\r\n",
            "<html></html>",
        ),
        Mode::Stall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec()),
    ];
    modes[random.below(modes.len())].clone()
}

fn wish(random: &mut RandomNumbers) -> Wish {
    let source = match random.below(5) {
        0 | 1 => Source::Block(random.below(BLOCKS)),
        2 | 3 => Source::Config(random.below(CONFIGS)),
        _ => Source::Identity(random.below(CONFIGS)),
    };
    let pools: BTreeSet<usize> = (0..POOLS).filter(|_| random.one_in(2)).collect();
    Wish {
        source,
        pools,
        optional: !random.one_in(3),
        renamed: random.one_in(4),
        shared_server: random.one_in(3),
        later: random.one_in(3).then(|| random.below(CONFIGS)),
        extras: [
            Extra::RenamedKey,
            Extra::File,
            Extra::Mount,
            Extra::Jobs,
            Extra::Restart,
        ]
        .into_iter()
        .filter(|_| random.one_in(3))
        .collect(),
    }
}

/// Creates a binding, or edits its spec.
async fn apply(scene: &mut Scene, random: &mut RandomNumbers) -> Result<()> {
    write_spec(scene, random, true).await
}

/// Replaces a binding as `kubectl replace` does: annotations and finalizers are gone.
async fn replace(scene: &mut Scene, random: &mut RandomNumbers) -> Result<()> {
    write_spec(scene, random, false).await
}

/// Writes a whole spec. A server-side apply would keep the pools of another field manager.
async fn write_spec(scene: &mut Scene, random: &mut RandomNumbers, keep: bool) -> Result<()> {
    let (binding, wish) = (random.below(BINDINGS), wish(random));
    let name = binding_name(binding);
    let bindings = scene.world.bindings();
    let old = bindings.get_opt(&name).await?;
    let mut metadata = json!({"name": name});
    if let Some(old) = &old {
        if old.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        metadata["resourceVersion"] = json!(old.metadata.resource_version);
        if keep {
            metadata["annotations"] = json!(old.metadata.annotations);
            metadata["finalizers"] = json!(old.metadata.finalizers);
        }
    }
    let new = serde_json::from_value(json!({
        "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding",
        "metadata": metadata, "spec": scene.spec(binding, &wish),
    }))?;
    let written = match old {
        Some(_) => bindings.replace(&name, &PostParams::default(), &new).await,
        None => bindings.create(&PostParams::default(), &new).await,
    };
    // The operator may have written meanwhile.
    if written.is_ok() {
        scene.bindings.insert(binding, wish);
    }
    Ok(())
}

async fn delete(scene: &mut Scene, random: &mut RandomNumbers) -> Result<()> {
    let binding = random.below(BINDINGS);
    if scene.bindings.remove(&binding).is_some() {
        let bindings = scene.world.bindings();
        bindings
            .delete(&binding_name(binding), &DeleteParams::default())
            .await?;
    }
    Ok(())
}

/// Edits a template as a user does: with the entries that are there, or with a copy from before them.
async fn edit_template(scene: &mut Scene, random: &mut RandomNumbers, keep: bool) -> Result<()> {
    let pool = random.below(POOLS);
    let name = scene.pool(pool);
    scene.edits[pool] += 1;
    let mut template = scene.template(pool)?;
    let read_at = Instant::now();
    if keep {
        let mut now = scene.world.api.template(&name).await?;
        let entries = testkit::prefect::env_from(&mut now)?.clone();
        let variable = &now["variables"]["properties"][VARIABLE];
        if !variable.is_null() {
            template["variables"]["properties"][VARIABLE] = variable.clone();
        }
        if !entries.is_empty() {
            *testkit::prefect::env_from(&mut template)? = entries;
        }
    }
    scene.world.api.set_template(&name, &template).await?;
    if read_at.elapsed() > LATE {
        // A copy from before a removal brings entries back that the operator no longer knows as its
        // own.
        let template = scene.template(pool)?;
        scene.world.api.set_template(&name, &template).await?;
    }
    Ok(())
}

fn any_secret(scene: &Scene, random: &mut RandomNumbers) -> Option<String> {
    let all: Vec<_> = scene.bindings.iter().collect();
    let (binding, wish) = all.get(random.below(all.len()))?;
    Some(secret_name(**binding, wish))
}

/// Asks the operator to read now. It may be stopped, or the binding may not exist.
async fn refresh(scene: &Scene, random: &mut RandomNumbers) -> Result<()> {
    let text = format!("request {}", random.below(1_000_000));
    let patch = json!({"metadata": {"annotations": {"doppler-prefect.dev/refresh": text}}});
    let name = binding_name(random.below(BINDINGS));
    let (bindings, params) = (scene.world.bindings(), PatchParams::default());
    drop(bindings.patch(&name, &params, &Patch::Merge(&patch)).await);
    Ok(())
}

async fn edit_secret(scene: &Scene, random: &mut RandomNumbers) -> Result<()> {
    if let Some(name) = any_secret(scene, random)
        && scene.world.secrets().get_opt(&name).await?.is_some()
    {
        let patch = json!({"stringData": {"A": secret("edited"), "THEIRS": secret("edited")}});
        // The operator may have deleted it meanwhile.
        drop(scene.world.edit_secret(&name, &patch).await);
    }
    Ok(())
}

async fn delete_secret(scene: &Scene, random: &mut RandomNumbers) -> Result<()> {
    if let Some(name) = any_secret(scene, random) {
        // It may not exist yet.
        drop(scene.world.delete_secret(&name).await);
    }
    Ok(())
}
