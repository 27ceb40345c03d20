//! A control group that bounds the memory of one operator, as the kubelet bounds a container.
//!
//! Input: a limit in bytes. Output: a group, and what the kernel did in it.
//! Invariants: without the right to make a group, as for users other than root, the case is skipped
//! and says so. The group ends with its value.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::case::Skipped;

const ROOT: &str = "/sys/fs/cgroup";

/// The names of the files, which differ by version.
struct Files {
    limit: &'static str,
    events: &'static str,
}

const VERSION_1: Files = Files {
    limit: "memory.limit_in_bytes",
    events: "memory.oom_control",
};
const VERSION_2: Files = Files {
    limit: "memory.max",
    events: "memory.events",
};

/// A group without swap.
pub struct Cgroup {
    path: PathBuf,
    files: &'static Files,
}

impl Cgroup {
    /// Makes a group with this name and limit.
    ///
    /// # Errors
    /// [`Skipped`] if this process may not make one.
    pub fn new(name: &str, limit: u64) -> Result<Self> {
        let name = format!("doppler-prefect-{name}-{}", std::process::id());
        let mut reason = "no memory controller is mounted".to_owned();
        for (parent, files) in parents() {
            let group = Self {
                path: parent.join(&name),
                files,
            };
            match group.prepare(limit) {
                Ok(()) => return Ok(group),
                Err(error) => reason = format!("{error:#}"),
            }
        }
        Err(Skipped(format!("no memory cgroup can be made: {reason}")).into())
    }

    fn prepare(&self, limit: u64) -> Result<()> {
        fs::create_dir(&self.path).with_context(|| self.path.display().to_string())?;
        self.set_limit(limit)?;
        // Version 2 has a file for swap, and version 1 has none if swap is not counted.
        let _ = fs::write(self.path.join("memory.swap.max"), "0");
        let entered = Command::new("/bin/sh")
            .args(["-c", &self.enter()])
            .output()?;
        anyhow::ensure!(entered.status.success(), "no process may enter it");
        Ok(())
    }

    /// The line of a shell that moves it into the group.
    pub fn enter(&self) -> String {
        let procs = self.path.join("cgroup.procs");
        format!("echo $$ > '{}' || exit 1", procs.display())
    }

    /// Changes the limit.
    pub fn set_limit(&self, limit: u64) -> Result<()> {
        let path = self.path.join(self.files.limit);
        fs::write(&path, limit.to_string()).with_context(|| path.display().to_string())
    }

    /// How many processes the kernel killed because of the limit.
    pub fn kills(&self) -> Result<u64> {
        let events = fs::read_to_string(self.path.join(self.files.events))?;
        let kills = events
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "));
        Ok(kills.context("the kernel does not count kills")?.parse()?)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its last process may still be ending.
        for _ in 0..50 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Groups in which a group for memory may be made.
fn parents() -> Vec<(PathBuf, &'static Files)> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut parents = Vec::new();
    let first = Path::new(ROOT).join("memory");
    if first.join(VERSION_1.limit).exists() {
        let below = own.lines().find_map(|line| line.split_once(":memory:/"));
        let below = below.map(|(_, path)| first.join(path));
        parents.extend(
            below
                .filter(|path| path.exists())
                .map(|it| (it, &VERSION_1)),
        );
        parents.push((first, &VERSION_1));
    }
    let controllers = Path::new(ROOT).join("cgroup.controllers");
    let has_memory = |text: String| text.split_whitespace().any(|one| one == "memory");
    if fs::read_to_string(controllers).is_ok_and(has_memory) {
        let root = PathBuf::from(ROOT);
        // Fails in a group that has processes; then a child has no file for the limit.
        let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
        parents.push((root, &VERSION_2));
    }
    parents
}
