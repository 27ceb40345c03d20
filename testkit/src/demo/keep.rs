//! Leaves everything running until Ctrl-C.
//!
//! Input: the stage after the story, and lines on standard input. Output: the commands with which a
//! reader can continue. A line `NAME=VALUE` sets a secret in Doppler.
//! Invariants: a typed value is not printed.

use anyhow::Result;
use tokio::sync::mpsc;

use super::names::{DOPPLER_CONFIG, FLOW, NAMESPACE};
use super::output::Output;
use super::stage::Environment;
use crate::binary::workspace;
use crate::prefect::virtual_environment;

/// Waits for Ctrl-C.
pub(super) async fn until_interrupted(output: &Output, stage: &Environment) -> Result<()> {
    let (project, config) = DOPPLER_CONFIG;
    output.step("everything is left running until Ctrl-C; in another terminal:");
    for line in commands(stage).await? {
        output.quote(&line);
    }
    output.quote(&format!(
        "here: NAME=VALUE and Enter sets a secret of {project}/{config} in Doppler"
    ));
    let mut lines = read_input()?;
    loop {
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
            Some(line) = lines.recv() => match line.split_once('=') {
                Some((name, value)) => {
                    stage.doppler.set(project, config, name.trim(), value.trim());
                    output.step(&format!("Doppler: {} is set", name.trim()));
                }
                None => output.quote("type NAME=VALUE, or Ctrl-C"),
            },
        }
    }
}

async fn commands(stage: &Environment) -> Result<Vec<String>> {
    let prefect = virtual_environment().await?.join("bin/prefect");
    let prefect = prefect.display();
    let binding = workspace().join("examples/smallest.yaml");
    let kubeconfig = stage.plane.admin_kubeconfig_path();
    Ok(vec![
        format!("export KUBECONFIG={}", kubeconfig.display()),
        format!("export PREFECT_API_URL={}", stage.prefect.api_url()),
        format!("kubectl apply -f {}", binding.display()),
        format!("kubectl get dpb -n {NAMESPACE}"),
        format!("{prefect} deployment run {FLOW}/{FLOW} --watch"),
        format!("{prefect} flow-run logs ID"),
        format!(
            "the network of the cluster: HTTPS_PROXY={} SSL_CERT_FILE={}",
            stage.network.url(),
            stage.authority.display()
        ),
    ])
}

/// The lines of standard input. A read cannot be cancelled, so that its thread ends with the
/// process.
fn read_input() -> Result<mpsc::Receiver<String>> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::Builder::new()
        .name("input".to_owned())
        .spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                if !line.trim().is_empty() && sender.blocking_send(line).is_err() {
                    break;
                }
            }
        })?;
    Ok(lines)
}
