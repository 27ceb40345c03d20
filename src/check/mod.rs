//! The subcommand `check`: what the operator would do for the bindings in files, from the user's
//! own kubeconfig.
//!
//! Input: files and flags.
//! Output: findings on standard output: names, counts, excluded keys and why, and which pools would
//! change and how. The exit status is a success only if everything would work.
//! Invariants: resolves and decides with the controller's own functions; writes nothing; prints no
//! value.
//!
//! Reading order: [`operator_settings`], [`input`], [`schema`], [`servers`], [`validate`], [`api_server`], [`resolve`], [`secret`], [`pools`], [`jobs`].

mod api_server;
mod compare;
mod context;
mod document;
mod error;
mod findings;
mod input;
mod jobs;
mod operator_settings;
mod output;
mod patches;
mod pools;
mod resolve;
mod rules;
mod schema;
mod secret;
mod servers;
mod validate;

use std::{
    collections::BTreeSet,
    io::{self, Write},
    process::ExitCode,
};

use kube::ResourceExt;
use serde_json::Value;

use crate::{
    args::{CheckArgs, PatchForm},
    controller::{cluster_servers::ClusterServers, prefect_server::PrefectServer},
    crd::DopplerPrefectBinding,
    printable::{self, MAX_MESSAGE_BYTES, one_line},
};
use context::Hosts;
use document::Document;
use input::parse_bindings;
use operator_settings::OperatorSettings;
use output::Output;

pub(crate) use context::CheckContext;
pub(crate) use document::resolve as resolve_document;
pub use error::CheckError;
pub(crate) use findings::Findings;
pub(crate) use input::{parse_documents, read_file};
pub(crate) use servers::add_documents as add_servers;

/// A file's name and its text.
type Input = (String, String);

/// Checks all files.
///
/// # Errors
/// If a flag is invalid, a file cannot be read, or there is no kubeconfig.
pub async fn check(args: CheckArgs) -> Result<ExitCode, CheckError> {
    let CheckArgs {
        files,
        offline,
        compare,
        output,
        print_patch,
        resolve,
    } = args;
    let output = Output::new(output);
    if compare {
        return compare::compare(&files, resolve, output).await;
    }
    let inputs = files
        .iter()
        .map(|file| Ok((file.display().to_string(), read_file(file)?)))
        .collect::<Result<Vec<Input>, CheckError>>()?;
    let all_ok = if let Some(form) = print_patch {
        print_patches(form, &inputs)?
    } else if offline {
        let operator = OperatorSettings::new(resolve.settings, Err("--offline is set".to_owned()));
        let servers = operator.cluster_servers();
        print_findings(None, (&Hosts::new(&operator)?, &servers), &inputs, output).await?
    } else {
        let context = CheckContext::new(resolve).await?;
        let of_cluster = (&context.hosts, &context.cluster_servers);
        print_findings(Some(&context), of_cluster, &inputs, output).await?
    };
    Ok(if all_ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn print_patches(form: PatchForm, inputs: &[Input]) -> Result<bool, CheckError> {
    let mut all_ok = true;
    for (file, text) in inputs {
        for binding in parse_bindings(text) {
            match binding {
                Ok(binding) => write!(io::stdout(), "{}", patches::patches(form, &binding))?,
                Err(why) => {
                    let line = one_line(&format!("{file}: {why}"), MAX_MESSAGE_BYTES);
                    writeln!(io::stderr(), "{line}")?;
                    all_ok = false;
                }
            }
        }
    }
    Ok(all_ok)
}

/// Prints the findings about each binding. Without a context, it only validates.
async fn print_findings(
    context: Option<&CheckContext>,
    (hosts, servers): (&Hosts, &ClusterServers),
    inputs: &[Input],
    mut output: Output,
) -> Result<bool, CheckError> {
    let mut without_bindings = BTreeSet::new();
    // A binding of one file may name a server of another one.
    for (file, text) in inputs {
        for findings in servers::add_documents(servers, text) {
            without_bindings.insert(file.as_str());
            output.add(findings)?;
        }
    }
    for (file, text) in inputs {
        let documents = parse_documents(text);
        if documents.is_empty() && !without_bindings.contains(file.as_str()) {
            let mut findings = Findings::default();
            findings.title = printable::name(file);
            findings.fail("binding", "the file contains no DopplerPrefectBinding");
            output.add(findings)?;
        }
        for document in documents {
            let mut findings = Findings::default();
            findings.title.clone_from(file);
            match document {
                Ok(written) => {
                    check_document(context, (hosts, servers), &written, &mut findings).await;
                }
                Err(why) => findings.fail("binding", &why),
            }
            output.add(findings)?;
        }
    }
    Ok(output.finish()?)
}

/// Checks one binding as it is written.
async fn check_document(
    context: Option<&CheckContext>,
    (hosts, servers): (&Hosts, &ClusterServers),
    written: &Value,
    findings: &mut Findings,
) {
    let namespace = context.map_or("default", |context| &context.namespace);
    let Document {
        title,
        is_named,
        problems,
        binding,
    } = Document::read(written, namespace);
    findings.title = title;
    // The CRD of the cluster decides, if the API server can be asked: it may be another version.
    let mut decided = false;
    if let (Some(context), Ok(binding)) = (context, &binding)
        && is_named
    {
        decided = api_server::dry_run(context, written, binding, findings).await;
    }
    if !decided {
        for problem in &problems {
            findings.fail("CRD", problem);
        }
    }
    let binding = match binding {
        Ok(binding) => binding,
        Err(why) if problems.is_empty() || decided => return findings.fail("spec", &why),
        Err(_) => return,
    };
    if findings.has_failures() {
        return;
    }
    let server = servers::find(servers, context, &binding, findings).await;
    let server = server.as_ref();
    let may_contact = validate::validate(&binding, hosts, server, findings);
    if let Some(context) = context
        && !findings.has_failures()
    {
        if may_contact {
            check_online(context, binding, server, findings).await;
        } else {
            findings.note(
                "check",
                "sends nothing to a host that the operator may not allow: repeat it with the operator's flags",
            );
        }
    }
}

/// Checks what the operator would do for a binding that the API server accepts.
async fn check_online(
    context: &CheckContext,
    mut binding: DopplerPrefectBinding,
    server: Option<&PrefectServer>,
    findings: &mut Findings,
) {
    let (namespace, name) = (binding.namespace().unwrap_or_default(), binding.name_any());
    let uid = api_server::binding_uid(context, &namespace, &name).await;
    // A binding owns a Secret by its UID. The file cannot set it.
    binding.metadata.uid = uid.as_ref().ok().cloned().flatten();
    jobs::check_jobs(context, &binding, findings).await;
    let Some(resolved) = resolve::resolve(context, &binding, server, findings).await else {
        return;
    };
    match uid {
        Ok(_) => {
            let desired = &resolved.desired;
            for secret in [Some(desired), desired.files.as_deref()]
                .into_iter()
                .flatten()
            {
                secret::check_secret(context, &binding, secret, findings).await;
            }
        }
        Err(why) => findings.note(
            "Secret",
            &format!("not checked, because the binding cannot be read: {why}"),
        ),
    }
    if let Some(connection) = &resolved.connection {
        pools::check_pools(context, &binding, connection, &resolved.desired, findings).await;
    }
}
