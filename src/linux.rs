//! What Linux says of this process: memory, CPU time, threads, descriptors, and the memory that it may
//! use.
//!
//! Input: files below `/proc/self`, and of the control group.
//! Output: numbers.
//! Invariants: what cannot be read is absent, and never an error. Nothing is written.

use std::path::{Path, PathBuf};

/// Ticks of CPU time in a second. Linux has the same number on all platforms that the operator is
/// built for, whatever the kernel counts in.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the process uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU time of all threads, in seconds.
    pub cpu_seconds: Option<f64>,
    /// Resident memory, in bytes.
    pub resident_bytes: Option<u64>,
    /// Address space, in bytes.
    pub virtual_bytes: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// Open file descriptors.
    pub open_descriptors: Option<u64>,
}

/// Reads what the process uses now.
#[must_use]
pub fn usage() -> Usage {
    let status = read("/proc/self/status");
    Usage {
        cpu_seconds: cpu_seconds(&read("/proc/self/stat")),
        resident_bytes: kibibytes(&status, "VmRSS:"),
        virtual_bytes: kibibytes(&status, "VmSize:"),
        threads: field(&status, "Threads:"),
        open_descriptors: open_descriptors(),
    }
}

/// The limit of open files. None if it is unlimited or unknown.
#[must_use]
pub fn descriptor_limit() -> Option<usize> {
    soft_limit(&read("/proc/self/limits"))
}

/// The memory that the process may use, in bytes: the limit of its control group or of one above it,
/// or else the memory of the machine.
#[must_use]
pub fn memory_limit() -> Option<u64> {
    let groups = read("/proc/self/cgroup");
    let limits = limit_files(&groups)
        .into_iter()
        .filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok());
    limits
        .chain(kibibytes(&read("/proc/meminfo"), "MemTotal:"))
        .min()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The number after a name, such as `Threads:`, at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.checked_mul(1024)
}

/// The user and system time in `/proc/self/stat`. The name of the program is in parentheses and may
/// contain spaces.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let user: u32 = times.next()?.parse().ok()?;
    let system: u32 = times.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / TICKS_PER_SECOND)
}

fn open_descriptors() -> Option<u64> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
    // The directory itself is open meanwhile.
    u64::try_from(open.saturating_sub(1)).ok()
}

fn soft_limit(limits: &str) -> Option<usize> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The files that may hold a memory limit, for the lines of `/proc/self/cgroup`. In a container, the
/// group is mounted as the root, whatever its path says.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (root, file) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            continue;
        };
        // A path with `..` lies outside of what is mounted.
        let inside = Path::new(path.trim_start_matches('/'));
        let inside = if path.contains("..") {
            Path::new("")
        } else {
            inside
        };
        let above = inside
            .ancestors()
            .map(|group| Path::new(root).join(group).join(file));
        files.extend(above);
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_soft_limit() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
            Max processes             94587                94587                processes \n\
            Max open files            64                   1048576              files     \n";
        assert_eq!(soft_limit(limits), Some(64));
        assert_eq!(
            soft_limit("Max open files   unlimited   unlimited   files"),
            None
        );
        assert_eq!(soft_limit(""), None);
    }

    #[test]
    fn reads_times_behind_any_program_name() {
        let stat = "17 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 4 0 99";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("17 (a) S 1 2"), None);
    }

    #[test]
    fn reads_numbers_of_a_status() {
        let status = "Name:\ta\nVmSize:\t    8192 kB\nVmRSS:\t    2048 kB\nThreads:\t5\n";
        assert_eq!(kibibytes(status, "VmRSS:"), Some(2048 * 1024));
        assert_eq!(kibibytes(status, "VmSize:"), Some(8192 * 1024));
        assert_eq!(field(status, "Threads:"), Some(5));
        assert_eq!(field(status, "VmHWM:"), None);
    }

    #[test]
    fn limit_is_searched_up_to_the_root_of_the_group() {
        let found = |groups: &str| -> Vec<String> {
            let files = limit_files(groups).into_iter();
            files.map(|file| file.display().to_string()).collect()
        };
        assert_eq!(found("0::/\n"), ["/sys/fs/cgroup/memory.max"]);
        assert_eq!(
            found("0::/pods/one\n"),
            [
                "/sys/fs/cgroup/pods/one/memory.max",
                "/sys/fs/cgroup/pods/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(found("0::/../other\n"), ["/sys/fs/cgroup/memory.max"]);
        let first = "3:cpu,cpuacct:/one\n2:memory:/one\n";
        assert_eq!(
            found(first),
            [
                "/sys/fs/cgroup/memory/one/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes"
            ]
        );
        assert!(found("").is_empty() && found("nothing").is_empty());
    }

    #[test]
    fn this_process_uses_something() {
        let used = usage();
        assert!(used.resident_bytes > Some(0) && used.virtual_bytes > used.resident_bytes);
        assert!(used.threads >= Some(1) && used.open_descriptors >= Some(3));
        assert!(used.cpu_seconds.is_some());
        assert!(memory_limit() > used.resident_bytes);
    }
}
