//! In: a stage after its story. Out: what a reader needs to go on alone, and then patience until Ctrl-C. What is typed as
//! `NAME=VALUE` becomes a secret in Doppler; it is not repeated.

use anyhow::Result;
use tokio::sync::mpsc;

use super::binary::workspace;
use super::stage::{DOPPLER_CONFIG, Environment, NAMESPACE};
use super::story::FLOW;
use super::tell::Output;
use crate::prefect::virtual_environment;

/// Waits for Ctrl-C.
pub(super) async fn until_interrupted(tell: &Output, stage: &Environment) -> Result<()> {
    let prefect = virtual_environment().await?.join("bin/prefect");
    let binding = workspace().join("examples/smallest.yaml");
    tell.step("everything is left running until Ctrl-C; in another terminal:");
    for line in [
        format!(
            "export KUBECONFIG={}",
            stage.plane.admin_kubeconfig_path().display()
        ),
        format!("export PREFECT_API_URL={}", stage.prefect.api_url()),
        format!("kubectl apply -f {}", binding.display()),
        format!("kubectl get dpb -n {NAMESPACE}"),
        format!("{} deployment run {FLOW}/{FLOW} --watch", prefect.display()),
        format!("{} flow-run logs ID", prefect.display()),
        format!(
            "the network of the cluster: HTTPS_PROXY={} SSL_CERT_FILE={}",
            stage.network.url(),
            stage.authority.display()
        ),
    ] {
        tell.quote(&line);
    }
    tell.quote(&format!(
        "here: NAME=VALUE and Enter sets a secret of {}/{} in Doppler",
        DOPPLER_CONFIG.0, DOPPLER_CONFIG.1
    ));
    let mut lines = read_input()?;
    loop {
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
            Some(line) = lines.recv() => match line.split_once('=') {
                Some((name, value)) => {
                    stage.doppler.set(DOPPLER_CONFIG.0, DOPPLER_CONFIG.1, name.trim(), value.trim());
                    tell.step(&format!("Doppler: {} is set", name.trim()));
                }
                None => tell.quote("NAME=VALUE, or Ctrl-C"),
            },
        }
    }
}

/// What is typed, line by line. Reading blocks and cannot be called off, so it has a thread that ends with the process.
fn read_input() -> Result<mpsc::Receiver<String>> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::Builder::new()
        .name("typed".to_owned())
        .spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                if !line.trim().is_empty() && sender.blocking_send(line).is_err() {
                    break;
                }
            }
        })?;
    Ok(lines)
}
