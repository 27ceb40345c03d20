//! Temporary folders that are removed even if this process is killed.
//!
//! Input: a name.
//! Output: an empty folder, removed when its value is dropped. If this process dies first, its
//! guardian removes the folder once the servers in it have ended.
//! Invariants: with `DOPPLER_PREFECT_TESTKIT_KEEP` set, folders stay, so that their logs can be
//! read.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// Servers that end with this process may still write for some seconds, so the guardian repeats.
const GUARDIAN_SCRIPT: &str = r#"
trap '' HUP INT TERM
while read -r _; do :; done
for _ in 1 2 3 4 5 6 7 8; do rm -rf -- "$1"; sleep 1; done
"#;

/// A temporary folder.
#[derive(Debug)]
pub struct ScratchDir {
    path: PathBuf,
    /// The writing end of the guardian's pipe.
    guardian: Option<Child>,
}

impl ScratchDir {
    /// Creates an empty folder whose name starts with `name`.
    ///
    /// # Errors
    /// If the folder or its guardian cannot be created.
    pub fn new(name: &str) -> Result<Self> {
        let prefix = format!("doppler-prefect-{name}-");
        let path = tempfile::Builder::new().prefix(&prefix).tempdir()?.keep();
        let guardian = if std::env::var_os("DOPPLER_PREFECT_TESTKIT_KEEP").is_some() {
            crate::progress::line(&format!("keeps {}", path.display()));
            None
        } else {
            let mut command = Command::new("/bin/sh");
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
            command
                .args(["-c", GUARDIAN_SCRIPT, "guardian"])
                .arg(&path)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            Some(
                command
                    .spawn()
                    .context("cannot start a guardian for a temporary folder")?,
            )
        };
        Ok(Self { path, guardian })
    }

    /// The path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        if let Some(guardian) = &mut self.guardian {
            // The folder is removed here, so the guardian is not needed.
            let _ = guardian.kill();
            let _ = guardian.wait();
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn is_removed_when_the_value_is_dropped() {
        let folder = ScratchDir::new("test").unwrap();
        let path = folder.path().to_owned();
        std::fs::write(path.join("a"), "a").unwrap();
        drop(folder);
        assert!(!path.exists());
    }

    const OWNER: &str = "DOPPLER_PREFECT_TESTKIT_FOLDER_OWNER";

    #[test]
    fn is_removed_when_its_owner_is_killed() {
        if let Some(path_file) = std::env::var_os(OWNER) {
            let folder = ScratchDir::new("test").unwrap();
            let part = Path::new(&path_file).with_extension("part");
            std::fs::write(&part, folder.path().to_str().unwrap()).unwrap();
            std::fs::rename(&part, &path_file).unwrap();
            std::thread::sleep(Duration::from_mins(10));
            return;
        }
        let path_file = tempfile::tempdir().unwrap();
        let path_file = path_file.path().join("path");
        let mut owner = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "folder::tests::is_removed_when_its_owner_is_killed",
            ])
            .env(OWNER, &path_file)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let wait = |what: &str, condition: &dyn Fn() -> bool| {
            while !condition() {
                assert!(Instant::now() < deadline, "{what} did not happen in time");
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        wait("the owner's folder", &|| path_file.exists());
        let path = PathBuf::from(std::fs::read_to_string(&path_file).unwrap());
        assert!(path.exists());
        owner.kill().unwrap();
        owner.wait().unwrap();
        wait("the removal of the folder", &|| !path.exists());
    }
}
