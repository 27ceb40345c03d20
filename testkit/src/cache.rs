//! The cache of what is expensive to build: servers from source, and virtual environments.
//!
//! Input: a key that depends on all inputs, and a function that builds the entry. Output: the
//! entry's folder. The cache is in `DOPPLER_PREFECT_TESTKIT_CACHE`, or else in the user's cache
//! folder.
//! Invariants: an entry is built once, whatever the number of processes: behind a file lock, in a
//! temporary folder that is renamed. An incomplete entry is not used.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::progress::{self, Step};

/// A build that takes longer is stuck: the longest one takes less on two cores.
const BUILD_TIMEOUT: Duration = Duration::from_mins(45);

/// The folder of the cache. A missing folder is created.
///
/// # Errors
/// When neither the variable nor a home folder is set, or the folder cannot be created.
pub fn dir() -> Result<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let dir = set("DOPPLER_PREFECT_TESTKIT_CACHE")
        .or_else(|| {
            let user = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
            user.map(|user| user.join("doppler-prefect-operator-testkit"))
        })
        .context("the cache has no folder; set DOPPLER_PREFECT_TESTKIT_CACHE or HOME")?;
    let dir = std::path::absolute(dir)?;
    std::fs::create_dir_all(&dir)
        .with_context(|| format!("cannot create the cache {}", dir.display()))?;
    Ok(dir)
}

/// A key of `name` that differs for different inputs.
#[must_use]
pub fn key(name: &str, inputs: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for input in inputs {
        // The length distinguishes `ab`, `c` from `a`, `bc`.
        hash.update(input.len().to_le_bytes());
        hash.update(input);
    }
    // Eight bytes are enough to distinguish inputs, and keep the name short.
    let digest = hash.finalize();
    let short = digest
        .iter()
        .take(8)
        .fold(0_u64, |short, byte| (short << 8) | u64::from(*byte));
    format!("{name}-{short:016x}")
}

/// The folder of the entry `key`. `build` fills it if it is missing; `what` names the entry in
/// messages.
///
/// It blocks: do not call it from an async task.
///
/// # Errors
/// Those of `build`, and those of the file system.
pub fn get_or_build(
    key: &str,
    what: &str,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    get_or_build_in(&dir()?, key, what, build)
}

fn get_or_build_in(
    cache: &Path,
    key: &str,
    what: &str,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let entry = cache.join(key);
    if entry.exists() {
        return Ok(entry);
    }
    let lock = File::create(cache.join(format!("{key}.lock")))?;
    lock_exclusively(&lock, what)?;
    if entry.exists() {
        return Ok(entry);
    }
    // The name is fixed, so that the next build removes the rest of a killed one.
    let unfinished = cache.join(format!("{key}.unfinished"));
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished)?;
    }
    std::fs::create_dir(&unfinished)?;
    progress::during(
        &format!("building {what} (once, into {})", cache.display()),
        || build(&unfinished),
    )
    .with_context(|| format!("cannot build {what}"))?;
    std::fs::rename(&unfinished, &entry)?;
    Ok(entry)
}

/// The kernel releases the lock with the file, also when this process is killed.
fn lock_exclusively(lock: &File, what: &str) -> Result<()> {
    let deadline = Instant::now() + BUILD_TIMEOUT;
    let mut step = None;
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        if Instant::now() > deadline {
            bail!("another process has been building {what} for {BUILD_TIMEOUT:?}");
        }
        step.get_or_insert_with(|| {
            Step::start(&format!("waiting for another process that builds {what}"))
        });
        std::thread::sleep(Duration::from_millis(200));
    }
    if let Some(step) = step {
        step.finish();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn concurrent_callers_share_one_build() {
        let cache = tempfile::tempdir().unwrap();
        let builds = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let entry = get_or_build_in(cache.path(), "thing-1", "a thing", |dir| {
                        builds.fetch_add(1, Ordering::Relaxed);
                        std::fs::write(dir.join("whole"), "yes")?;
                        Ok(())
                    });
                    assert_eq!(
                        std::fs::read_to_string(entry.unwrap().join("whole")).unwrap(),
                        "yes"
                    );
                });
            }
        });
        assert_eq!(builds.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_failed_build_leaves_no_entry_and_is_retried() {
        let cache = tempfile::tempdir().unwrap();
        let failed = get_or_build_in(cache.path(), "thing-1", "a thing", |dir| {
            std::fs::write(dir.join("half"), "")?;
            bail!("no luck")
        });
        assert!(format!("{:#}", failed.unwrap_err()).contains("no luck"));
        assert!(!cache.path().join("thing-1").exists());
        let entry = get_or_build_in(cache.path(), "thing-1", "a thing", |_| Ok(())).unwrap();
        assert!(!entry.join("half").exists());
    }

    #[test]
    fn keys_differ_with_every_input() {
        let keys = [
            key("a", &[b"x", b"y"]),
            key("a", &[b"xy"]),
            key("a", &[b"x", b"z"]),
            key("b", &[b"x", b"y"]),
        ];
        for (index, one) in keys.iter().enumerate() {
            assert!(!keys[index + 1..].contains(one), "{one} occurs twice");
        }
    }
}
