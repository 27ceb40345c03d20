//! What users asked for: bindings, configs, blocks and pools.
//!
//! Input: the steps. Output: what must be true when all faults have ended.
//! Invariants: every pool and every Secret belongs to this run alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use testkit::admission;
use testkit::doppler::{Doppler, IdentityRules};
use testkit::prefect::{Block, kubernetes_template};

use crate::relay::{Mode, Relay};
use crate::stage::token_ref;
use crate::world::chart::{ACCOUNT, Optional};
use crate::world::{Setup, World, secret};

/// Numbers of everything.
pub const BINDINGS: usize = 12;
pub const CONFIGS: usize = 5;
pub const BLOCKS: usize = 4;
pub const POOLS: usize = 3;
/// The pool in which runs choose among the Secrets.
pub const SELECTED: usize = 2;
/// Its variable.
pub const VARIABLE: &str = "doppler_config";
/// The new name of key `A`.
const RENAMED: &str = "RENAMED_A";
/// The file with all keys.
pub const FILE: &str = "all.json";
/// The label by which bindings select Jobs.
pub const JOB_LABEL: (&str, &str) = ("prefect.io/deployment-name", "random");
/// The identity that bindings may read with.
const IDENTITY: &str = "6c6e6f1a-0000-4000-8000-000000000002";
/// What follows the name of the binding in the two names of its Secret.
const SECRET_SUFFIXES: [&str; 2] = ["", "-second"];
/// So short that tokens are renewed during every run.
const IDENTITY_TOKEN_LIFE: Duration = Duration::from_secs(10);

/// What a binding asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Where project, config and token come from.
    pub source: Source,
    /// The pools of `inject.workPools`.
    pub pools: BTreeSet<usize>,
    /// `optional` of each entry.
    pub optional: bool,
    /// Whether the Secret has the binding's second name.
    pub renamed: bool,
    /// Whether the binding reaches Prefect by the `ClusterPrefectServer`.
    pub shared_server: bool,
    /// A config whose values come before those of the source.
    pub later: Option<usize>,
    /// What the binding does beside its entries in pools.
    pub extras: BTreeSet<Extra>,
}

/// What a binding does beside its entries in pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extra {
    /// Key `A` has another name.
    RenamedKey,
    /// There is a file with all keys.
    File,
    /// Jobs with [`JOB_LABEL`] get the Secret.
    Jobs,
    /// A Deployment restarts when the content changes.
    Restart,
    /// The pools mount the file, if there is one.
    Mount,
}

/// The source of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Block(usize),
    Config(usize),
    /// As `Config`, with an identity in place of a token.
    Identity(usize),
}

/// The servers of a run, and the model of what they hold.
pub struct Scene {
    pub world: World,
    pub doppler: Doppler,
    pub to_doppler: Relay,
    pub to_prefect: Relay,
    /// What the stand-in verifies of the tokens of service accounts.
    identity: IdentityRules,
    pub bindings: BTreeMap<usize, Wish>,
    /// The values of each config.
    pub configs: Vec<BTreeMap<String, String>>,
    /// The config that each block names.
    pub blocks: Vec<usize>,
    /// How often users edited each pool's template.
    pub edits: Vec<u64>,
}

impl Scene {
    /// Starts an operator, and sets all configs, blocks and pools.
    pub async fn start(name: &str) -> Result<Self> {
        let setup = Setup {
            release_wait: "3s",
            optional: Optional::RestartsAndClusterServers,
            ..Setup::default()
        }
        .args(&[
            "--stale-after",
            "5s",
            "--doppler-timeout",
            "2s",
            "--prefect-timeout",
            "3s",
            "--cluster-servers",
        ]);
        let world = World::with(name, setup).await?;
        let doppler = Doppler::start()?;
        let to_doppler = Relay::start(doppler.http_addr()).await?;
        let prefect = ([127, 0, 0, 1], world.prefect.port()).into();
        let to_prefect = Relay::start(prefect).await?;
        admission::install(world.plane).await?;
        let (issuer, jwks) = world.plane.issuer().await?;
        let identity = IdentityRules {
            issuer,
            jwks,
            audiences: vec!["https://api.doppler.com".to_owned()],
            subject: format!("system:serviceaccount:{name}:{ACCOUNT}"),
            config: None,
            life: IDENTITY_TOKEN_LIFE,
        };
        let mut scene = Self {
            world,
            doppler,
            to_doppler,
            to_prefect,
            identity,
            bindings: BTreeMap::new(),
            configs: vec![BTreeMap::new(); CONFIGS],
            blocks: (0..BLOCKS).collect(),
            edits: vec![0; POOLS],
        };
        scene.doppler.add_account_token(&scene.token());
        scene.put_identity();
        scene.create_workloads().await?;
        scene.put_shared_server(&[name]).await?;
        scene.world.put_token("random", &scene.token()).await?;
        for config in 0..CONFIGS {
            for key in ["A", "B", "C", "D", "E", "F"] {
                scene.set(config, key, "first");
            }
        }
        for block in 0..BLOCKS {
            scene.put_block(block, block).await?;
        }
        for pool in 0..POOLS {
            let template = scene.template(pool)?;
            let name = scene.pool(pool);
            scene
                .world
                .api
                .create_pool(&name, "kubernetes", Some(template))
                .await?;
        }
        Ok(scene)
    }

    /// The token of all configs.
    pub fn token(&self) -> String {
        format!("dp.sa.{}", secret(&self.world.name))
    }

    /// How Prefect is reached.
    fn server(&self) -> Value {
        json!({"remoteApiUrl": format!("{}/api", self.to_prefect.url())})
    }

    /// Creates the `ClusterPrefectServer`, for the bindings of these namespaces.
    pub async fn put_shared_server(&self, namespaces: &[&str]) -> Result<()> {
        let name = &self.world.name;
        let server = json!({
            "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "ClusterPrefectServer",
            "metadata": {"name": name},
            "spec": {
                "server": self.server(),
                "namespaces": {"names": namespaces},
                "blocks": ["{namespace}-*"],
                "workPools": [format!("{name}-pool-*")],
            },
        });
        self.world.apply(&server.to_string()).await
    }

    /// Lets the service account read with the identity.
    fn put_identity(&self) {
        self.doppler.put_identity(IDENTITY, self.identity.clone());
    }

    /// Makes the stand-in refuse the identity.
    pub fn remove_identity(&self) {
        self.doppler.remove_identity(IDENTITY);
        self.doppler.revoke_identity_tokens();
    }

    /// Creates the service account of the identity, and a Deployment for each binding, without pods.
    async fn create_workloads(&self) -> Result<()> {
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT}});
        self.world.apply(&account.to_string()).await?;
        for binding in 0..BINDINGS {
            let name = workload_name(binding);
            let env_from = SECRET_SUFFIXES
                .map(|suffix| json!({"secretRef": {"name": format!("b{binding}{suffix}")}}));
            let container = json!({"name": "main", "image": "none", "envFrom": env_from});
            let deployment = json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
                "spec": {
                    "replicas": 0,
                    "selector": {"matchLabels": {"app": name}},
                    "template": {
                        "metadata": {"labels": {"app": name}},
                        "spec": {"containers": [container]},
                    },
                },
            });
            self.world.apply(&deployment.to_string()).await?;
        }
        Ok(())
    }

    /// Sets a value of a config.
    pub fn set(&mut self, config: usize, key: &str, value: &str) {
        let value = secret(value);
        self.doppler.set("p", &config_name(config), key, &value);
        self.configs[config].insert(key.to_owned(), value);
    }

    /// Makes a block name this config.
    pub async fn put_block(&mut self, block: usize, config: usize) -> Result<()> {
        let document = Block::object("p", &config_name(config), &self.token());
        self.world
            .api
            .put_block(&self.block(block), &document)
            .await?;
        self.blocks[block] = config;
        Ok(())
    }

    /// The name of a block.
    pub fn block(&self, block: usize) -> String {
        format!("{}-{block}", self.world.name)
    }

    /// The name of a pool.
    pub fn pool(&self, pool: usize) -> String {
        format!("{}-pool-{pool}", self.world.name)
    }

    /// A pool's template as its users wrote it last, without entries.
    pub fn template(&self, pool: usize) -> Result<Value> {
        let mut template = kubernetes_template()?;
        template["variables"]["properties"]["namespace"]["default"] = json!(self.world.name);
        template["variables"]["properties"]["finished_job_ttl"]["default"] =
            json!(self.edits[pool]);
        Ok(template)
    }

    /// The spec that a binding's user applies.
    pub fn spec(&self, binding: usize, wish: &Wish) -> Value {
        let mut spec = match wish.source {
            Source::Block(block) => json!({
                "prefect": {"block": {"name": self.block(block)}},
                "doppler": {"host": self.to_doppler.url()},
            }),
            Source::Config(config) => json!({
                "prefect": {},
                "doppler": {
                    "host": self.to_doppler.url(), "project": "p", "config": config_name(config), "accessToken": token_ref("random"),
                },
            }),
            Source::Identity(config) => json!({
                "prefect": {},
                "doppler": {
                    "host": self.to_doppler.url(), "project": "p", "config": config_name(config),
                    "identity": {"id": IDENTITY, "serviceAccountRef": {"name": ACCOUNT}},
                },
            }),
        };
        if wish.shared_server {
            spec["prefect"]["serverRef"] = json!({"name": self.world.name});
        } else {
            spec["prefect"]["server"] = self.server();
        }
        if let (Source::Config(first), Some(later)) = (wish.source, wish.later) {
            let config = |config| json!({"project": "p", "config": config_name(config)});
            spec["doppler"]["configs"] = json!([config(first), config(later)]);
            if let Some(doppler) = spec["doppler"].as_object_mut() {
                doppler.retain(|field, _| field != "project" && field != "config");
            }
        }
        if wish.extras.contains(&Extra::RenamedKey) {
            spec["doppler"]["rename"] = json!({"A": RENAMED});
        }
        spec["managedSecret"] = json!({"name": secret_name(binding, wish)});
        if wish.extras.contains(&Extra::File) {
            spec["managedSecret"]["files"] = json!({FILE: {"format": "Json"}});
        }
        if wish.extras.contains(&Extra::Restart) {
            let target = json!({"kind": "Deployment", "name": workload_name(binding)});
            spec["managedSecret"]["restart"] = json!({"targets": [target], "minInterval": "10s"});
        }
        let pools = wish.pools.iter().map(|pool| match *pool {
            SELECTED => json!({"name": self.pool(SELECTED), "runs": "Selected"}),
            pool => {
                let mut item = json!({"name": self.pool(pool), "optional": wish.optional});
                if wish.mounts() {
                    item["mount"] = json!({"path": mount_path(binding)});
                }
                item
            }
        });
        spec["inject"] = json!({"workPools": pools.collect::<Vec<_>>()});
        if wish.extras.contains(&Extra::Jobs) {
            spec["inject"]["jobs"] = json!([{"matchLabels": {JOB_LABEL.0: JOB_LABEL.1}}]);
        }
        spec
    }

    /// The config that a binding resolves to.
    pub fn config_of(&self, wish: &Wish) -> usize {
        match wish.source {
            Source::Block(block) => self.blocks[block],
            Source::Config(config) | Source::Identity(config) => config,
        }
    }

    /// The values that a binding's Secret must have.
    pub fn values_of(&self, wish: &Wish) -> BTreeMap<String, String> {
        let mut values = self.configs[self.config_of(wish)].clone();
        if let (Source::Config(_), Some(later)) = (wish.source, wish.later) {
            values.extend(self.configs[later].clone());
        }
        if wish.extras.contains(&Extra::RenamedKey)
            && let Some(value) = values.remove("A")
        {
            values.insert(RENAMED.to_owned(), value);
        }
        values
    }

    /// The Secrets that a pool must name.
    pub fn entries_of(&self, pool: usize) -> BTreeSet<String> {
        let wanted = self
            .bindings
            .iter()
            .filter(|(_, wish)| wish.pools.contains(&pool));
        wanted
            .map(|(binding, wish)| secret_name(*binding, wish))
            .collect()
    }

    /// The Secrets that a Job with [`JOB_LABEL`] must get. The later name wins, so it comes last.
    pub fn secrets_of_jobs(&self) -> Vec<String> {
        let wanted = self
            .bindings
            .iter()
            .filter(|(_, wish)| wish.extras.contains(&Extra::Jobs));
        let mut wanted: Vec<_> = wanted
            .map(|(binding, wish)| (binding_name(*binding), secret_name(*binding, wish)))
            .collect();
        wanted.sort();
        wanted.into_iter().map(|(_, secret)| secret).collect()
    }

    /// What a pool must mount: the Secrets with files, and where.
    pub fn mounts_of(&self, pool: usize) -> BTreeSet<(String, String)> {
        let wanted = self
            .bindings
            .iter()
            .filter(|(_, wish)| wish.pools.contains(&pool) && wish.mounts());
        wanted
            .map(|(binding, wish)| {
                let files = format!("{}-files", secret_name(*binding, wish));
                (files, mount_path(*binding))
            })
            .collect()
    }

    /// Ends all faults.
    pub async fn end_faults(&mut self) -> Result<()> {
        self.to_doppler.set(Mode::Forward);
        self.to_prefect.set(Mode::Forward);
        self.doppler.clear_faults();
        self.doppler.add_account_token(&self.token());
        self.put_identity();
        self.put_shared_server(&[&self.world.name]).await?;
        self.world.put_token("random", &self.token()).await
    }

    /// The model in a few words.
    pub fn summary(&self) -> String {
        let edits: u64 = self.edits.iter().sum();
        format!(
            "{} bindings, {POOLS} pools with {edits} edits of users",
            self.bindings.len()
        )
    }
}

impl Wish {
    /// Whether pools mount the file.
    fn mounts(&self) -> bool {
        let extras = &self.extras;
        extras.contains(&Extra::File) && extras.contains(&Extra::Mount)
    }
}

/// Where a binding mounts its files, under both of its names.
fn mount_path(binding: usize) -> String {
    format!("/srv/{}", binding_name(binding))
}

/// The name of a binding.
pub fn binding_name(binding: usize) -> String {
    format!("b{binding}")
}

/// The name of a binding's Secret.
pub fn secret_name(binding: usize, wish: &Wish) -> String {
    let suffix = SECRET_SUFFIXES[usize::from(wish.renamed)];
    format!("b{binding}{suffix}")
}

/// The name of the Deployment that a binding restarts.
pub fn workload_name(binding: usize) -> String {
    format!("w{binding}")
}

fn config_name(config: usize) -> String {
    format!("dev_{config}")
}
