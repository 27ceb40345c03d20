//! `check`: what would happen for the bindings in files, from the user's own kubeconfig.
//!
//! In: files, flags. Out: lines on standard output: names, counts, what is held back and why, which pools would change and how; never a value. It
//! goes the controller's own way with the controller's own functions, and writes nothing.

mod lines;
mod pools;
mod upstream;

use std::{
    io::{self, Read, Write},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use tokio::time::timeout;

use crate::{
    args::{CheckArgs, PatchForm, UpstreamArgs},
    controller::{key_refs::KeyRefs, object_cache::ObjectCache},
    crd::DopplerPrefectBinding,
    doppler,
    inject::{patch_text, template::Entry},
    outbound::{AllowedHosts, ClientError, PatternError},
    prefect::{Clients, connection::api_url_of},
    process::run::{RunError, kubernetes},
    secret::{DesiredInput, HashKey, SecretClient, desired, key_filter::KeyFilter},
    upstream::limiter::RateLimiter,
};
use lines::Findings;

/// Time limit of a step at the API server.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Most bytes of a file.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// The check cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A file cannot be read.
    #[error("{file} cannot be read: {source}")]
    File {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// An allowed host is none.
    #[error(transparent)]
    Hosts(#[from] PatternError),
    /// No HTTP client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No way to the API server.
    #[error("{0}; give --offline to validate only")]
    Kubernetes(#[from] RunError),
    /// The address of the Prefect server is none.
    #[error("--prefect-api-url is not a URL: write one such as http://127.0.0.1:4200/api")]
    PrefectUrl,
    /// Nobody listens.
    #[error("standard output is closed")]
    Output(#[from] io::Error),
}

/// What a check needs of the world.
pub(crate) struct CheckContext {
    client: Client,
    references: KeyRefs,
    objects: ObjectCache,
    clients: Clients,
    doppler: doppler::Client,
    secrets: SecretClient,
    hash_key: HashKey,
    prefect_hosts: AllowedHosts,
    doppler_hosts: AllowedHosts,
    prefect_api_url: Option<url::Url>,
    namespace: String,
}

/// Checks all files. Success only if everything would work.
///
/// # Errors
/// If a file cannot be read, or there is no way to the API server.
pub async fn check(args: CheckArgs) -> Result<ExitCode, CheckError> {
    let CheckArgs {
        files,
        offline,
        prefect_api_url,
        print_patch,
        upstream,
    } = args;
    let UpstreamArgs {
        allowed_doppler_hosts,
        allowed_prefect_hosts,
        prefect_timeout,
        doppler_timeout,
    } = upstream;
    let prefect_hosts = AllowedHosts::parse("--allowed-prefect-host", &allowed_prefect_hosts)?;
    let doppler_hosts = AllowedHosts::parse("--allowed-doppler-host", &allowed_doppler_hosts)?;
    let prefect_api_url = prefect_api_url
        .map(|url| {
            url.trim_end_matches('/')
                .parse()
                .map_err(|_| CheckError::PrefectUrl)
        })
        .transpose()?;
    let mut texts = Vec::new();
    for file in &files {
        texts.push((file.display().to_string(), read_file(file)?));
    }
    let mut out = io::stdout().lock();
    let mut all_well = true;
    if let Some(form) = print_patch {
        for (file, text) in &texts {
            for binding in parse_bindings(text) {
                match binding {
                    Ok(binding) => write!(out, "{}", patches(form, &binding))?,
                    Err(why) => {
                        writeln!(io::stderr(), "{file}: {why}")?;
                        all_well = false;
                    }
                }
            }
        }
        return Ok(if all_well {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    let world = if offline {
        None
    } else {
        let namespace = kube::Config::infer()
            .await
            .map_or_else(|_| "default".to_owned(), |config| config.default_namespace);
        let client = kubernetes().await?;
        Some(CheckContext {
            references: KeyRefs::new(client.clone(), TIMEOUT),
            objects: ObjectCache::new(Box::new(|_| {})),
            clients: Clients::new(prefect_timeout, RateLimiter::small()),
            doppler: doppler::Client::new(doppler_timeout, RateLimiter::small())?,
            secrets: SecretClient::new(client.clone(), TIMEOUT),
            hash_key: HashKey::generate(),
            prefect_hosts: prefect_hosts.clone(),
            doppler_hosts: doppler_hosts.clone(),
            prefect_api_url,
            namespace,
            client,
        })
    };
    for (file, text) in &texts {
        let found = parse_bindings(text);
        if found.is_empty() {
            writeln!(out, "{file}: no DopplerPrefectBinding in it")?;
            all_well = false;
        }
        for binding in found {
            let mut lines = Findings::default();
            match (binding, &world) {
                (Err(why), _) => {
                    lines.fail("binding", &why);
                    lines.title = file.clone();
                }
                (Ok(binding), None) => {
                    validate(&binding, &prefect_hosts, &doppler_hosts, &mut lines);
                }
                (Ok(binding), Some(world)) => {
                    validate(&binding, &prefect_hosts, &doppler_hosts, &mut lines);
                    if !lines.has_failures() {
                        check_online(world, binding, &mut lines).await;
                    }
                }
            }
            all_well &= !lines.has_failures();
            write!(out, "{lines}")?;
        }
    }
    Ok(if all_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn read_file(file: &Path) -> Result<String, CheckError> {
    let fail = |source| CheckError::File {
        file: file.display().to_string(),
        source,
    };
    let mut text = String::new();
    let read = if file == Path::new("-") {
        io::stdin().take(MAX_FILE_BYTES).read_to_string(&mut text)
    } else {
        std::fs::File::open(file)
            .map_err(fail)?
            .take(MAX_FILE_BYTES)
            .read_to_string(&mut text)
    };
    read.map_err(fail)?;
    Ok(text)
}

/// The bindings in a text of one or more YAML documents; other kinds are passed over.
fn parse_bindings(text: &str) -> Vec<Result<DopplerPrefectBinding, String>> {
    #[derive(serde::Deserialize)]
    struct Kind {
        #[serde(default)]
        kind: String,
    }
    text.split("\n---")
        .filter(|document| {
            document.lines().any(|line| {
                !line.trim().is_empty()
                    && !line.trim_start().starts_with('#')
                    && line.trim() != "---"
            })
        })
        .filter_map(|document| match serde_saphyr::from_str::<Kind>(document) {
            Ok(found) if found.kind != "DopplerPrefectBinding" => None,
            Ok(_) => Some(
                serde_saphyr::from_str(document).map_err(|error| first_line(&error.to_string())),
            ),
            Err(error) => Some(Err(first_line(&error.to_string()))),
        })
        .collect()
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn patches(form: PatchForm, binding: &DopplerPrefectBinding) -> String {
    let entry = |optional| Entry {
        secret: binding.secret_name().to_owned(),
        optional,
    };
    binding
        .spec
        .inject
        .work_pools
        .iter()
        .map(|pool| patch_text(form, &pool.name, &entry(pool.optional), None))
        .collect()
}

/// What can be told without reaching anything.
fn validate(
    binding: &DopplerPrefectBinding,
    prefect_hosts: &AllowedHosts,
    doppler_hosts: &AllowedHosts,
    lines: &mut Findings,
) {
    let namespace = binding.namespace().unwrap_or_else(|| "default".to_owned());
    lines.title = format!("DopplerPrefectBinding {namespace}/{}", binding.name_any());
    let spec = &binding.spec;
    let doppler = &spec.doppler;
    if spec.prefect.is_none()
        && !(doppler.project.is_some()
            && doppler.config.is_some()
            && doppler.access_token.is_some())
    {
        lines.fail("spec", "give spec.prefect.server (the block is read there), or all three of spec.doppler.project, config and accessToken");
    }
    if spec.prefect.is_none() && !spec.inject.work_pools.is_empty() {
        lines.fail("spec", "spec.inject.workPools names work pools of a Prefect server: give spec.prefect.server as well");
    }
    if spec.refresh_interval.is_some() && spec.interval().is_none() {
        lines.fail(
            "spec",
            "spec.refreshInterval: write a duration from 10s to 24h, such as 30s, 5m or 1h",
        );
    }
    if let Some(prefect) = &spec.prefect {
        match api_url_of(&prefect.server, &namespace) {
            Err(error) => lines.fail("Prefect", &error.to_string()),
            Ok(url) if prefect.server.name.is_none() => {
                if let Err(error) = prefect_hosts.check(&url) {
                    lines.fail("Prefect", &format!("spec.prefect.server: {error}"));
                }
            }
            Ok(_) => {}
        }
    }
    if let Err(fault) =
        crate::controller::connect::doppler_host(doppler_hosts, doppler.host.as_deref())
    {
        lines.fail("Doppler", &fault.message);
    }
    if let Err(error) = KeyFilter::new(doppler, &spec.managed_secret) {
        lines.fail("spec", &error.to_string());
    }
    // The labels and annotations are judged as for a Secret without values.
    let key = HashKey::generate();
    let input = DesiredInput {
        binding: &binding.name_any(),
        binding_uid: "",
        namespace: &namespace,
        doppler,
        managed: &spec.managed_secret,
        project: "",
        config: "",
        key: &key,
    };
    if let Err(error) = desired(&input, &std::collections::BTreeMap::new()) {
        lines.fail("Secret", &error.to_string());
    }
    if !lines.has_failures() {
        lines.ok("spec", "valid");
    }
}

async fn check_online(
    world: &CheckContext,
    mut binding: DopplerPrefectBinding,
    lines: &mut Findings,
) {
    let namespace = binding
        .namespace()
        .unwrap_or_else(|| world.namespace.clone());
    binding.metadata.namespace = Some(namespace.clone());
    lines.title = format!("DopplerPrefectBinding {namespace}/{}", binding.name_any());
    dry_run(world, &binding, &namespace, lines).await;
    let Some(found) = upstream::resolve(world, &binding, &namespace, lines).await else {
        return;
    };
    upstream::check_secret(world, &binding, &namespace, &found.desired, lines).await;
    if let Some(connection) = &found.connection {
        pools::check_pools(
            world,
            &binding,
            &namespace,
            connection,
            &found.desired,
            lines,
        )
        .await;
    }
}

/// What the API server says to the binding, without keeping it.
async fn dry_run(
    world: &CheckContext,
    binding: &DopplerPrefectBinding,
    namespace: &str,
    lines: &mut Findings,
) {
    let api: Api<DopplerPrefectBinding> = Api::namespaced(world.client.clone(), namespace);
    let params = PatchParams {
        dry_run: true,
        ..PatchParams::apply("doppler-prefect-operator-check")
    }
    .force();
    let mut sent = DopplerPrefectBinding::new(&binding.name_any(), binding.spec.clone());
    sent.metadata.namespace = Some(namespace.to_owned());
    match timeout(
        TIMEOUT,
        api.patch(&binding.name_any(), &params, &Patch::Apply(&sent)),
    )
    .await
    {
        Ok(Ok(_)) => lines.ok("API server", "accepts the binding"),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            lines.note("API server", "you may not create bindings here, so that it was not asked whether it accepts this one");
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
            lines.fail("API server", &format!("the CRD or namespace {namespace} is not there: kubectl apply -f crds/, kubectl create namespace {namespace}"));
        }
        Ok(Err(kube::Error::Api(status))) => {
            lines.fail("API server", &first_line(&status.message));
        }
        Ok(Err(_)) | Err(_) => lines.fail("API server", "could not be reached"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = include_str!("../../examples/smallest.yaml");

    fn validate_offline(text: &str) -> Findings {
        let hosts = |flag, host: &str| AllowedHosts::parse(flag, &[host.to_owned()]).unwrap();
        let mut lines = Findings::default();
        let binding = parse_bindings(text).remove(0).unwrap();
        validate(
            &binding,
            &hosts("--allowed-prefect-host", "api.prefect.cloud"),
            &hosts("--allowed-doppler-host", "api.doppler.com"),
            &mut lines,
        );
        lines
    }

    #[test]
    fn smallest_example_is_valid() {
        let lines = validate_offline(SMALLEST);
        assert!(!lines.has_failures(), "{lines}");
    }

    #[test]
    fn reports_a_disallowed_host_with_its_flag() {
        let lines = validate_offline(&SMALLEST.replace(
            "spec:",
            "spec:\n  doppler: {host: \"https://evil.example.com\"}",
        ));
        assert!(
            lines.has_failures() && lines.to_string().contains("--allowed-doppler-host"),
            "{lines}"
        );
    }

    #[test]
    fn skips_other_kinds_and_reports_broken_documents() {
        let text = format!("kind: ConfigMap\napiVersion: v1\n---\n{SMALLEST}\n---\n# nothing\n");
        assert_eq!(parse_bindings(&text).len(), 1);
        assert!(parse_bindings("kind: DopplerPrefectBinding\nspec: {prefect: 3}\n")[0].is_err());
        assert!(parse_bindings(": : :\n\t- x")[0].is_err());
    }

    #[test]
    fn patch_names_the_secret_and_keeps_optional() {
        let binding = parse_bindings(SMALLEST).remove(0).unwrap();
        let patch: serde_json::Value =
            serde_json::from_str(&patches(PatchForm::Json, &binding)).unwrap();
        assert_eq!(
            patch[0]["value"][0]["secretRef"]["name"],
            binding.secret_name()
        );
        assert_eq!(patch[0]["value"][0]["secretRef"]["optional"], true);
    }
}
