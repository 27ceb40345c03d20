//! The process of a container.
//!
//! Input: a container, its environment and volumes, and the node's context.
//! Output: the process under a guardian, or the runtime's message for a container that does not
//! start.
//! Invariants: the process inherits no variable of the test process.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;

use super::context::{Image, NodeContext};
use super::environment::{Environment, command_line};
use super::volumes::Mount;
use crate::guard::{GuardedChild, GuardedCommand};

/// The time that a process may take after SIGTERM.
const GRACE_PERIOD: Duration = Duration::from_secs(5);

/// Mounts volumes and becomes the program.
const MOUNTS_SCRIPT: &str = include_str!("mounts.sh");

/// Where a container runs.
pub(super) struct Place<'a> {
    /// Its home.
    pub(super) folder: &'a Path,
    /// The directory with a directory for each volume.
    pub(super) volumes: &'a Path,
    /// Where it mounts them.
    pub(super) mounts: &'a [Mount],
    /// The file with its output.
    pub(super) log: &'a Path,
}

/// Starts the container's process.
pub(super) fn start(
    site: &NodeContext,
    container: &Container,
    env: &Environment,
    place: &Place<'_>,
) -> Result<GuardedChild, String> {
    let folder = place.folder;
    let image = image(site, container);
    let mut words = match image {
        Some(image) if container.command.is_none() => image.entrypoint.clone(),
        _ => Vec::new(),
    };
    words.extend(command_line(container, env));
    let (program, arguments) = words.split_first().ok_or("no command specified")?;

    let bin = site.venv.join("bin");
    let image_path = format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display());
    let program = find_in_path(program, env.get("PATH").unwrap_or(&image_path))
        .ok_or_else(|| format!("exec: {program:?}: executable file not found in $PATH"))?;
    let mut command = command(&program, place).map_err(|error| error.to_string())?;
    command
        .args(arguments)
        .current_dir(site.options.working_dir.as_deref().unwrap_or(folder))
        .env_clear()
        .env("PATH", image_path)
        .env("HOME", folder)
        .env("PREFECT_HOME", folder)
        .env("LANG", "C.UTF-8")
        .env("PYTHONUNBUFFERED", "1")
        .envs(site.options.extra_env.iter().cloned())
        .envs(image.into_iter().flat_map(|image| image.env.clone()))
        .envs(env.iter());
    // The error may contain arguments, so only its kind is kept.
    GuardedCommand::new(&container.name, command, place.log)
        .grace(GRACE_PERIOD)
        .start()
        .map_err(|_| "the process could not be started".to_owned())
}

/// The program, in a mount namespace of its own if the container mounts a volume.
fn command(program: &Path, place: &Place<'_>) -> std::io::Result<Command> {
    if place.mounts.is_empty() {
        return Ok(Command::new(program));
    }
    let scratch = place.volumes.join("..scratch");
    std::fs::create_dir_all(&scratch)?;
    let mut command = Command::new("/usr/bin/unshare");
    if std::fs::metadata("/proc/self")?.uid() != 0 {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args(["--mount", "--propagation", "private", "--"])
        .args(["/bin/sh", "-c", MOUNTS_SCRIPT, "mounts"])
        .arg(scratch)
        .arg(place.mounts.len().to_string());
    for mount in place.mounts {
        command
            .arg(place.volumes.join(&mount.volume))
            .arg(&mount.path);
    }
    command.arg(program);
    Ok(command)
}

/// The substitute for the container's image.
pub(super) fn image<'a>(site: &'a NodeContext, container: &Container) -> Option<&'a Image> {
    let wanted = container.image.as_deref().unwrap_or_default();
    let images = site.options.images.iter();
    let mut fitting = images.filter(|image| {
        let rest = wanted.strip_prefix(image.repository.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']))
    });
    fitting.next()
}

/// Finds the program as a container runtime does: a path with a slash as it is, else in the
/// container's own `PATH`.
fn find_in_path(program: &str, path: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return is_executable(Path::new(program)).then(|| program.into());
    }
    let mut found = path
        .split(':')
        .map(|folder| Path::new(folder).join(program));
    found.find(|candidate| is_executable(candidate))
}

fn is_executable(file: &Path) -> bool {
    std::fs::metadata(file)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_on_the_containers_path() {
        assert_eq!(find_in_path("sh", "/nowhere:/bin"), Some("/bin/sh".into()));
        assert_eq!(find_in_path("sh", "from-a-secret"), None);
        assert_eq!(find_in_path("/bin/sh", ""), Some("/bin/sh".into()));
    }
}
