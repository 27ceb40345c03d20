//! The image: buildah assembles the last stage of the Dockerfile, and an operator runs in it.
//!
//! Input: the static binary in `IMAGE_BINARY`, which `.ci/image` builds as the first stage does.
//! Output: whether the operator works in the image, and its resident memory; for a release build
//! also whether size and memory are within their limits.
//! Invariants: the test needs no base image and no network.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::config::Kubeconfig;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use testkit::folder::ScratchDir;
use testkit::network::Network;

use crate::world::{CRD, Setup, World, pairs, secret};

/// Upper limit of the size of the release binary.
const BINARY_MIB: u64 = 16;
/// Upper limit of the resident memory of the idle operator.
const IDLE_MIB: u64 = 20;
/// Number of bindings for which the memory limit of the chart is measured.
const BINDINGS: usize = 200;
const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
const ACCOUNT: &str = "var/run/secrets/kubernetes.io/serviceaccount";

/// Buildah with its own storage for images.
struct Buildah {
    folder: ScratchDir,
}

impl Buildah {
    fn command(&self) -> Command {
        let mut command = Command::new("buildah");
        command
            .args(["--storage-driver", "vfs"])
            .arg("--root")
            .arg(self.folder.path().join("images"))
            .arg("--runroot")
            .arg(self.folder.path().join("run"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command();
        let done = command
            .args(arguments)
            .output()
            .context("buildah cannot be started: Debian has it as a package of that name")?;
        ensure!(
            done.status.success(),
            "buildah {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(String::from_utf8(done.stdout)?.trim_end().to_owned())
    }
}

/// Creates the files that the last stage copies: the binary, and the CA bundle of the system with
/// one more certificate.
fn context(folder: &Path, binary: &Path, authority: &str) -> Result<()> {
    let stages = super::stages();
    for copy in super::all(stages.last().context("no stage")?, "COPY") {
        let [_, from, to] = copy.split(' ').collect::<Vec<_>>()[..] else {
            anyhow::bail!("COPY {copy}")
        };
        let at = folder.join(from.trim_start_matches('/'));
        std::fs::create_dir_all(at.parent().context("a file in a folder")?)?;
        if to == CA_BUNDLE {
            let system =
                std::fs::read_to_string(CA_BUNDLE).context("this machine has no CA roots")?;
            std::fs::write(at, format!("{system}\n{authority}"))?;
        } else {
            std::fs::copy(binary, at)?;
        }
    }
    Ok(())
}

/// The Dockerfile from its last `FROM` on. The first stage needs an image from a registry.
fn last_stage() -> Result<String> {
    let text = std::fs::read_to_string(Path::new(super::ROOT).join("Dockerfile"))?;
    let at = text.rfind("\nFROM ").context("one stage only")?;
    Ok(text[at..].to_owned())
}

fn files(folder: &Path, root: &Path, found: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, root, found)?;
        } else {
            found.push(format!("/{}", path.strip_prefix(root)?.display()));
        }
    }
    found.sort();
    Ok(())
}

/// Mounts the service account as the kubelet does, from the kubeconfig of the chart's account.
/// Returns the environment variables with the address of the API server.
fn mount_account(root: &Path, w: &World) -> Result<[(&'static str, String); 2]> {
    let kubeconfig = Kubeconfig::read_from(&w.grant.kubeconfig)?;
    let account = kubeconfig.auth_infos[0].auth_info.as_ref();
    let token = account.and_then(|account| account.token.as_ref());
    let cluster = kubeconfig.clusters[0].cluster.as_ref();
    let server = cluster.and_then(|cluster| cluster.server.as_deref());
    let folder = root.join(ACCOUNT);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(
        folder.join("token"),
        token.context("no token")?.expose_secret(),
    )?;
    std::fs::write(folder.join("ca.crt"), w.plane.ca_pem())?;
    std::fs::write(folder.join("namespace"), &w.grant.namespace)?;
    let (host, port) = server
        .and_then(|server| server.strip_prefix("https://"))
        .and_then(|server| server.trim_end_matches('/').rsplit_once(':'))
        .context("no address of the API server")?;
    Ok([
        ("KUBERNETES_SERVICE_HOST", host.to_owned()),
        ("KUBERNETES_SERVICE_PORT", port.to_owned()),
    ])
}

/// A script that replaces itself by the entry point of the image, with its root directory, user and
/// environment.
fn starter(folder: &Path, root: &Path, config: &Value) -> Result<PathBuf> {
    let mut script = String::from("#!/bin/sh\nunset KUBECONFIG HOME\n");
    for entry in config["Env"].as_array().context("no environment")? {
        let entry = entry.as_str().context("text")?;
        // The script needs the PATH of this machine to find chroot.
        if !entry.starts_with("PATH=") {
            writeln!(script, "export '{entry}'")?;
        }
    }
    let user = config["User"].as_str().context("no user")?;
    let entry = config["Entrypoint"][0].as_str().context("no entry point")?;
    writeln!(
        script,
        "exec chroot --userspec={user} '{}' {entry} \"$@\"",
        root.display()
    )?;
    let path = folder.join("start");
    std::fs::write(&path, script)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// The resident memory once it no longer grows.
async fn settled_kib(w: &World) -> Result<u64> {
    let mut before = 0;
    w.until("a memory that no longer grows", async || {
        w.until_polls("unchanged", 3).await?;
        let now = w.operator()?.rss_kib()?;
        let grew = now > before;
        before = now;
        ensure!(!grew, "{now} KiB");
        Ok(now)
    })
    .await
}

/// The CPU time of the operator so far. Linux counts it in ticks of 10 ms.
fn cpu_ms(w: &World) -> Result<u64> {
    let pid = w.operator()?.process().pid();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit(')').next().context("no fields")?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    Ok((fields[11].parse::<u64>()? + fields[12].parse::<u64>()?) * 10)
}

async fn until_all_ready(w: &World, count: usize) -> Result<()> {
    w.until(&format!("{count} Ready bindings"), async || {
        let any = ListParams::default().match_any();
        let bindings = w.bindings().list(&any).await?.items;
        let is_ready = |binding: &&DynamicObject| {
            let conditions = binding.data["status"]["conditions"].as_array();
            let mut conditions = conditions.into_iter().flatten();
            conditions.any(|one| one["type"] == "Ready" && one["status"] == "True")
        };
        let ready = bindings.iter().filter(is_ready).count();
        ensure!(ready == count, "{ready} so far");
        Ok(())
    })
    .await
}

/// Prints a measurement on the terminal although tests are captured.
fn report(line: &str) {
    testkit::progress::line(line);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, buildah and a static binary: run .ci/image, as .ci/run does"]
async fn operator_runs_in_the_image() -> Result<()> {
    let binary = std::env::var_os("IMAGE_BINARY").context("IMAGE_BINARY is not set: .ci/image")?;
    let binary = std::path::absolute(binary)?;
    let released = binary
        .components()
        .any(|part| part.as_os_str() == "release");
    let size = std::fs::metadata(&binary)?.len();
    report(&format!("size of the binary: {size} bytes"));

    let network = Network::start()?;
    let mut w = World::without_operator(
        "image",
        Setup {
            env: network.env(),
            ..Setup::default()
        }
        .args(&["--allowed-doppler-host", "api.doppler.com"]),
    )
    .await?;
    network.route("api.doppler.com:443", w.doppler.tls_addr());

    let buildah = Buildah {
        folder: ScratchDir::new("image")?,
    };
    let sources = buildah.folder.path().join("sources");
    context(&sources, &binary, w.doppler.ca_pem())?;
    let dockerfile = buildah.folder.path().join("Dockerfile");
    std::fs::write(&dockerfile, last_stage()?)?;
    let (sources, dockerfile) = (sources.display(), dockerfile.display().to_string());
    buildah.run(&[
        "build",
        "--isolation=chroot",
        "--pull=never",
        &format!("--build-context=build={sources}"),
        "--file",
        &dockerfile,
        "--tag",
        "operator",
    ])?;
    let image: Value =
        serde_json::from_str(&buildah.run(&["inspect", "--type=image", "operator"])?)?;
    let config = &image["OCIv1"]["config"];
    ensure!(config["User"] == "65532:65532", "{config}");
    ensure!(
        config["Entrypoint"] == json!(["/doppler-prefect-operator"]),
        "{config}"
    );
    ensure!(config["Cmd"] == json!(["run"]), "{config}");

    let container = buildah.run(&["from", "--pull-never", "operator"])?;
    let root = PathBuf::from(buildah.run(&["mount", &container])?);
    let mut content = Vec::new();
    files(&root, &root, &mut content)?;
    ensure!(
        content == ["/doppler-prefect-operator", CA_BUNDLE],
        "{content:?}"
    );
    let entry = "/doppler-prefect-operator";
    let crd = buildah.run(&["run", "--isolation=chroot", &container, "--", entry, "crd"])?;
    ensure!(crd == CRD.trim_end(), "the binary prints another CRD");

    // As in a pod: a mounted service account, the address of the API server in the environment, and
    // no kubeconfig.
    let address = mount_account(&root, &w)?;
    w.add_operator_env(address.map(|(name, value)| (name.to_owned(), value)));
    w.set_operator_binary(starter(buildah.folder.path(), &root, config)?);
    w.start_operator().await?;
    let idle = w.operator()?.rss_kib()?;

    // The operator verifies the certificate of Doppler with the CA bundle in the image.
    w.set_doppler_secret("KEY", &secret("image"));
    let mut spec = w.direct_spec().await?;
    let doppler = spec["doppler"].as_object_mut();
    doppler.context("a stanza")?.remove("host");
    w.apply_binding("first", &spec).await?;
    w.until_values("first", &pairs(&[("KEY", secret("image"))]))
        .await?;
    let one = settled_kib(&w).await?;
    for number in 1..BINDINGS {
        let binding = serde_json::from_value(json!({
            "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding",
            "metadata": {"name": format!("b{number}")}, "spec": spec,
        }))?;
        w.bindings()
            .create(&PostParams::default(), &binding)
            .await?;
    }
    until_all_ready(&w, BINDINGS).await?;
    let many = settled_kib(&w).await?;
    let peak = w.operator()?.peak_kib()?;
    let (cpu_before, started) = (cpu_ms(&w)?, Instant::now());
    w.until_polls("unchanged", 10).await?;
    let cpu = u128::from(cpu_ms(&w)? - cpu_before) * 1000 / started.elapsed().as_millis().max(1);
    report(&format!(
        "processor: {cpu} ms a second at rest, with {BINDINGS} bindings that poll each second and a log at trace level"
    ));
    report(&format!(
        "resident: {idle} KiB without bindings, {one} KiB with one, {many} KiB with {BINDINGS}, {peak} KiB at most"
    ));
    if released {
        // 1 MB, the most that a Secret can hold, is written into all Secrets at once.
        for number in 0..20 {
            w.set_doppler_secret(
                &format!("LARGE_{number}"),
                &format!("{}{}", secret("large"), "x".repeat(50_000)),
            );
        }
        w.until_within(Duration::from_mins(3), "large Secrets", async || {
            let writes = w.writes(Some("secret")).await?;
            ensure!(writes >= 2 * BINDINGS as u64, "{writes} writes");
            Ok(())
        })
        .await?;
        let (after, peak) = (settled_kib(&w).await?, w.operator()?.peak_kib()?);
        report(&format!(
            "resident: {after} KiB after 1 MB was written into each of {BINDINGS} Secrets, {peak} KiB at most"
        ));
        ensure!(size < BINARY_MIB << 20, "size of the binary: {size} bytes");
        ensure!(idle < IDLE_MIB << 10, "{idle} KiB without bindings");
        ensure!(one < IDLE_MIB << 10, "{one} KiB with one binding");
    }
    w.finish().await?;
    buildah.run(&["rm", &container])?;
    Ok(())
}
