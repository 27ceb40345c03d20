//! CPU time and resident memory of a process, from the kernel.
//!
//! Input: a process ID. Output: `Usage`.
//! Invariants: reads /proc only, so that the process is not disturbed.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// The kernel reports CPU time in hundredths of a second, whatever its internal resolution.
const TICK: Duration = Duration::from_millis(10);

/// The usage of a process at one time.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// The time of the reading.
    pub at: Instant,
    /// CPU time since the process started: all threads, user and system.
    pub cpu: Duration,
    /// Resident memory, in bytes.
    pub resident: u64,
    /// The highest resident memory since the process started, in bytes.
    pub peak: u64,
}

impl Usage {
    /// Reads the usage of a process.
    ///
    /// # Errors
    /// When the process exited.
    pub fn of(pid: u32) -> Result<Self> {
        let folder = Path::new("/proc").join(pid.to_string());
        let (status, stat) = (read(&folder.join("status"))?, read(&folder.join("stat"))?);
        Ok(Self {
            at: Instant::now(),
            cpu: cpu(&stat)?,
            resident: memory(&status, "VmRSS:")?,
            peak: memory(&status, "VmHWM:")?,
        })
    }

    /// The share of one core that the process used since `before`.
    #[must_use]
    pub fn share_since(&self, before: &Self) -> f64 {
        let cpu = self.cpu.saturating_sub(before.cpu);
        cpu.as_secs_f64() / (self.at - before.at).as_secs_f64()
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| {
        format!(
            "cannot read {}; the process may have exited",
            path.display()
        )
    })
}

/// Fields 14 and 15. They are counted from the end of the name, which may contain any character.
fn cpu(stat: &str) -> Result<Duration> {
    let fields = stat
        .rsplit_once(") ")
        .context("/proc/PID/stat has no name")?
        .1;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u32>);
    Ok(TICK * ticks.sum::<Result<u32, _>>()?)
}

fn memory(status: &str, field: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
    let kib: u64 = kib
        .context("/proc/PID/status has no memory")?
        .trim()
        .parse()?;
    Ok(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cpu_time_after_a_name_with_parentheses() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 9 0 0 0 150 50 3 4 20 0 1 0 5";
        assert_eq!(cpu(stat).unwrap(), Duration::from_secs(2));
    }

    #[test]
    fn reads_its_own_usage() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.resident > 1 << 20 && usage.peak >= usage.resident);
    }
}
