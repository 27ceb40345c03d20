//! The settings of the operator by which bindings are judged.
//!
//! Input: the flags of `check`, and the operator's Deployment.
//! Output: [`OperatorSettings`]: a flag of `check`, or else the operator's own setting, or else the
//! default, with the reason why the operator's own is not known.
//! Invariants: reads one list of Deployments with the user's permissions, and nothing else.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use clap::{Arg, Args as _, Command, ValueEnum};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Container};
use kube::{Api, Client, api::ListParams};
use tokio::time::timeout;

use crate::{
    args::{BlockOverrides, OperatorSettingArgs, RunArgs},
    controller::cluster_servers::{ClusterServers, Listing},
};

const DOPPLER_HOST: &str = "allowed-doppler-host";
const PREFECT_HOST: &str = "allowed-prefect-host";
const PREFECT_SERVICE: &str = "allowed-prefect-service";
const FORBIDDEN_NAME: &str = "forbidden-name";
const BLOCK_OVERRIDES: &str = "block-overrides";
const ADOPT: &str = "adopt-without-consent";
const CLUSTER_SERVERS: &str = "cluster-servers";
const DEFAULT_SERVER: &str = "default-prefect-server";
/// The flags of `run` that decide about a binding.
const FLAGS: [&str; 8] = [
    DOPPLER_HOST,
    PREFECT_HOST,
    PREFECT_SERVICE,
    FORBIDDEN_NAME,
    BLOCK_OVERRIDES,
    ADOPT,
    CLUSTER_SERVERS,
    DEFAULT_SERVER,
];
/// Deployments of one namespace that are searched.
const MAX_DEPLOYMENTS: u32 = 500;

/// The operator's settings.
#[derive(Clone, Debug)]
pub(super) struct OperatorSettings {
    pub doppler_hosts: Vec<String>,
    pub prefect_hosts: Vec<String>,
    pub prefect_services: Vec<String>,
    pub forbidden_names: Vec<String>,
    pub block_overrides: BlockOverrides,
    pub adopt_without_consent: bool,
    /// Whether the operator reads `ClusterPrefectServer`s. None if that is not known.
    pub reads_cluster_servers: Option<bool>,
    /// The server of bindings that name none.
    pub default_server: Option<String>,
    /// What is assumed and not known.
    pub assumed: Assumed,
}

/// Which settings are defaults, because neither a flag nor the operator's Deployment gives them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Assumed {
    pub doppler_hosts: bool,
    pub prefect_hosts: bool,
    pub prefect_services: bool,
    /// Why the operator's own settings are not known.
    pub why: String,
}

/// The values of the flags of the operator.
pub(super) type Flags = BTreeMap<&'static str, String>;

impl OperatorSettings {
    /// The settings for these flags of `check`.
    pub fn new(given: OperatorSettingArgs, operator: Result<Flags, String>) -> Self {
        let (own, why) = match operator {
            Ok(flags) => (flags, None),
            Err(why) => (Flags::new(), Some(why)),
        };
        let value = |flag: &str| own.get(flag).cloned().unwrap_or_else(|| default(flag));
        let list = |given: Option<Vec<String>>, flag: &str| {
            given.unwrap_or_else(|| {
                let value = value(flag);
                let parts = value.split(',').filter(|part| !part.is_empty());
                parts.map(ToOwned::to_owned).collect()
            })
        };
        let is_unknown = why.is_some();
        Self {
            assumed: Assumed {
                doppler_hosts: is_unknown && given.allowed_doppler_hosts.is_none(),
                prefect_hosts: is_unknown && given.allowed_prefect_hosts.is_none(),
                prefect_services: is_unknown && given.allowed_prefect_services.is_none(),
                why: why.unwrap_or_default(),
            },
            doppler_hosts: list(given.allowed_doppler_hosts, DOPPLER_HOST),
            prefect_hosts: list(given.allowed_prefect_hosts, PREFECT_HOST),
            prefect_services: list(given.allowed_prefect_services, PREFECT_SERVICE),
            forbidden_names: list(given.forbidden_names, FORBIDDEN_NAME),
            block_overrides: given.block_overrides.unwrap_or_else(|| {
                BlockOverrides::from_str(&value(BLOCK_OVERRIDES), true).unwrap_or_default()
            }),
            adopt_without_consent: given
                .adopt_without_consent
                .unwrap_or_else(|| value(ADOPT) == "true"),
            reads_cluster_servers: (!is_unknown).then(|| value(CLUSTER_SERVERS) == "true"),
            default_server: given
                .default_prefect_server
                .or_else(|| own.get(DEFAULT_SERVER).cloned())
                .filter(|name| !name.is_empty()),
        }
    }

    /// No `ClusterPrefectServer` yet, with the default server.
    pub fn cluster_servers(&self) -> ClusterServers {
        let default = self.default_server.clone();
        ClusterServers::new(Listing::Listed, default, Arc::new(|_| {}))
    }
}

/// The flags of the operator whose Deployment is in `namespace`. The API server has `limit` to answer.
///
/// # Errors
/// Why they are not known.
pub(super) async fn read(
    client: &Client,
    namespace: &str,
    limit: Duration,
) -> Result<Flags, String> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let params = ListParams::default().limit(MAX_DEPLOYMENTS);
    let deployments = match timeout(limit, api.list(&params)).await {
        Ok(Ok(deployments)) => deployments.items,
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            return Err(format!(
                "you have no permission to list Deployments in namespace {namespace}"
            ));
        }
        Ok(Err(_)) | Err(_) => return Err("the API server could not be reached".to_owned()),
    };
    let containers = deployments
        .into_iter()
        .filter_map(|deployment| deployment.spec?.template.spec)
        .flat_map(|pod| pod.containers);
    let mut operators = containers.filter(is_operator);
    match (operators.next(), operators.next()) {
        (Some(container), None) => flags_of(&container),
        (None, _) => Err(format!(
            "namespace {namespace} has no Deployment of the operator: set --operator-namespace"
        )),
        (Some(_), Some(_)) => Err(format!(
            "namespace {namespace} has several Deployments of the operator"
        )),
    }
}

/// Whether a container runs the operator.
fn is_operator(container: &Container) -> bool {
    let args = container.args.as_deref().unwrap_or_default();
    let is_run = args.first().is_some_and(|first| first == "run");
    let env = container.env.iter().flatten();
    let names_image = container
        .image
        .as_deref()
        .is_some_and(|image| image.contains("doppler-prefect-operator"));
    is_run
        && (names_image
            || env
                .into_iter()
                .any(|one| one.name == "ALLOWED_DOPPLER_HOST"))
}

/// The values of its flags: an argument, or else the environment variable, or else the default.
fn flags_of(container: &Container) -> Result<Flags, String> {
    let mut flags = Flags::new();
    for flag in FLAGS {
        let in_args = in_args(container.args.as_deref().unwrap_or_default(), flag);
        let value = match in_args {
            Some(value) => Some(value),
            None => in_env(container, flag)?,
        };
        if let Some(value) = value {
            flags.insert(flag, value);
        }
    }
    Ok(flags)
}

/// The values of a flag that is given once or more.
fn in_args(args: &[String], flag: &str) -> Option<String> {
    let flag = format!("--{flag}");
    let mut values = Vec::new();
    for (at, arg) in args.iter().enumerate() {
        if let Some(value) = arg
            .strip_prefix(&flag)
            .and_then(|rest| rest.strip_prefix('='))
        {
            values.push(value);
        } else if *arg == flag {
            let next = args.get(at + 1).filter(|next| !next.starts_with("--"));
            values.push(next.map_or("true", |next| next.as_str()));
        }
    }
    (!values.is_empty()).then(|| values.join(","))
}

fn in_env(container: &Container, flag: &str) -> Result<Option<String>, String> {
    let Some(name) = argument(flag).and_then(|arg| Some(arg.get_env()?.to_str()?.to_owned()))
    else {
        return Ok(None);
    };
    // The last one counts, as for the kubelet.
    let found = container.env.iter().flatten().rfind(|one| one.name == name);
    match found {
        None => Ok(None),
        Some(one) if one.value_from.is_some() => {
            Err(format!("the operator takes {name} from another object"))
        }
        Some(one) => Ok(one.value.clone()),
    }
}

/// The default of a flag of `run`.
fn default(flag: &str) -> String {
    let values = argument(flag).map(|arg| {
        let values = arg.get_default_values().iter();
        let values: Vec<_> = values.filter_map(|value| value.to_str()).collect();
        values.join(",")
    });
    values.unwrap_or_default()
}

fn argument(flag: &str) -> Option<Arg> {
    let command = RunArgs::augment_args(Command::new("run"));
    let mut arguments = command.get_arguments();
    arguments.find(|arg| arg.get_long() == Some(flag)).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(args: &serde_json::Value, env: &serde_json::Value) -> Container {
        serde_json::from_value(json!({
            "name": "operator", "image": "registry/doppler-prefect-operator:1", "args": args, "env": env,
        }))
        .unwrap()
    }

    #[test]
    fn every_flag_is_one_of_run() {
        for flag in FLAGS {
            assert!(
                argument(flag).is_some_and(|arg| arg.get_env().is_some()),
                "{flag}"
            );
        }
        assert_eq!(default(DOPPLER_HOST), "api.doppler.com");
    }

    #[test]
    fn arguments_come_before_the_environment_and_the_defaults() {
        let env = json!([
            {"name": "ALLOWED_PREFECT_HOST", "value": "a.example,b.example"},
            {"name": "ALLOWED_DOPPLER_HOST", "value": "ignored.example"},
        ]);
        let args = json!([
            "run",
            "--allowed-doppler-host=c.example",
            "--allowed-doppler-host",
            "d.example",
            "--adopt-without-consent",
        ]);
        let container = container(&args, &env);
        assert!(is_operator(&container));
        let settings = OperatorSettings::new(OperatorSettingArgs::default(), flags_of(&container));
        assert_eq!(settings.doppler_hosts, ["c.example", "d.example"]);
        assert_eq!(settings.prefect_hosts, ["a.example", "b.example"]);
        assert!(settings.adopt_without_consent && settings.forbidden_names.is_empty());
        assert_eq!(settings.assumed, Assumed::default());
        let given = OperatorSettingArgs {
            allowed_doppler_hosts: Some(vec!["e.example".to_owned()]),
            ..OperatorSettingArgs::default()
        };
        let settings = OperatorSettings::new(given, flags_of(&container));
        assert_eq!(settings.doppler_hosts, ["e.example"]);
    }

    #[test]
    fn unknown_settings_are_assumed_except_those_of_flags() {
        let given = OperatorSettingArgs {
            allowed_doppler_hosts: Some(vec!["e.example".to_owned()]),
            ..OperatorSettingArgs::default()
        };
        let settings = OperatorSettings::new(given, Err("no permission".to_owned()));
        assert_eq!(settings.prefect_hosts, ["api.prefect.cloud"]);
        let assumed = settings.assumed;
        assert!(assumed.prefect_hosts && assumed.prefect_services && !assumed.doppler_hosts);
        let env = json!([{"name": "FORBIDDEN_NAME", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}}]);
        assert!(flags_of(&container(&json!(["run"]), &env)).is_err());
    }
}
