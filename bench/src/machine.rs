//! The machine and the versions of a run.
//!
//! Input: /proc, git and the control plane. Output: names and values for readers.
//! Invariants: a value that cannot be read is omitted.

use std::path::Path;
use std::process::Command;

use testkit::binary::workspace;
use testkit::control_plane::ControlPlane;

/// The machine, and its load when the run starts.
#[must_use]
pub fn describe() -> Vec<(String, String)> {
    let cpu =
        field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let cores = std::thread::available_parallelism().map(|cores| cores.to_string());
    let memory = field("/proc/meminfo", "MemTotal").and_then(|text| gib(&text));
    let load = read("/proc/loadavg").and_then(|text| text.split(' ').next().map(str::to_owned));
    let kernel = read("/proc/sys/kernel/osrelease").map(|text| format!("Linux {}", text.trim()));
    let parts = [
        ("CPU", Some(cpu)),
        ("cores", cores.ok()),
        ("memory", memory),
        ("kernel", kernel),
        ("load when the run began", load),
        (
            "date",
            Some(jiff::Timestamp::now().strftime("%Y-%m-%d").to_string()),
        ),
        ("commit", commit()),
    ];
    let known = parts
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    known.collect()
}

/// The version that the control plane reports.
pub async fn kubernetes(plane: &ControlPlane) -> Option<(String, String)> {
    let version = plane.admin_client().ok()?.apiserver_version().await.ok()?;
    Some(("Kubernetes".to_owned(), version.git_version))
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(Path::new(path)).ok()
}

/// The value after the colon of the first line with that name.
fn field(path: &str, name: &str) -> Option<String> {
    let text = read(path)?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn gib(text: &str) -> Option<String> {
    let kib: u64 = text.strip_suffix("kB")?.trim().parse().ok()?;
    Some(format!("{} GiB", (kib + (1 << 19)) >> 20))
}

/// The commit that is checked out, and whether the work tree differs from it.
fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .current_dir(workspace())
            .args(arguments)
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let clean = git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if clean {
        commit
    } else {
        format!("{commit} and changes")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_rounded_to_gibibytes() {
        assert_eq!(gib("16303468 kB").as_deref(), Some("16 GiB"));
        assert_eq!(gib("much"), None);
    }
}
