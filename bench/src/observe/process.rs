//! What a process uses, as the kernel has it.
//!
//! In: a process id. Out: CPU time and resident memory.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// The kernel tells CPU times in hundredths of a second, whatever it counts itself.
const TICK: Duration = Duration::from_millis(10);
/// What it uses at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// When that was.
    pub at: Instant,
    /// CPU time since its start, all threads, user and system.
    pub cpu: Duration,
    /// Resident memory, in bytes.
    pub resident: u64,
    /// The most resident memory that it ever had, in bytes.
    pub peak: u64,
}

impl Usage {
    /// Looks at a process.
    ///
    /// # Errors
    /// When it has ended.
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

    /// The share of one core that was used since.
    #[must_use]
    pub fn share_since(&self, before: &Self) -> f64 {
        let cpu = self.cpu.saturating_sub(before.cpu);
        cpu.as_secs_f64() / (self.at - before.at).as_secs_f64()
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{} is gone", path.display()))
}

/// Fields 14 and 15, counted behind the name, which may hold anything.
fn cpu(stat: &str) -> Result<Duration> {
    let fields = stat
        .rsplit_once(") ")
        .context("a process without a name")?
        .1;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u32>);
    Ok(TICK * ticks.sum::<Result<u32, _>>()?)
}

fn memory(status: &str, field: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
    let kib: u64 = kib.context("a process without memory")?.trim().parse()?;
    Ok(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_times_behind_a_name_with_spaces_and_parentheses() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 9 0 0 0 150 50 3 4 20 0 1 0 5";
        assert_eq!(cpu(stat).unwrap(), Duration::from_secs(2));
    }

    #[test]
    fn sees_itself() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.resident > 1 << 20 && usage.peak >= usage.resident);
    }
}
