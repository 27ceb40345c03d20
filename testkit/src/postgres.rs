//! A `PostgreSQL` server from the packages of the system, for Prefect's database.
//!
//! Input: a folder.
//! Output: a server on a free port of 127.0.0.1 with its data in the folder.
//! Invariants: `PostgreSQL` refuses to run as root, so that root runs it as the user `postgres`, whom
//! Debian's package creates. Nothing is synced to the disk.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::guard::{GuardedChild, GuardedCommand};
use crate::{ports, wait};

/// Where Debian's packages install the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// A start takes less than a second on idle cores.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// A running server. It ends with its value, or with this process.
#[derive(Debug)]
pub struct Postgres {
    _process: GuardedChild,
    port: u16,
}

impl Postgres {
    /// Creates an empty cluster of databases in the folder.
    ///
    /// # Errors
    /// If `PostgreSQL` is not installed, or root has no user `postgres`.
    pub fn initialise(folder: &Path) -> Result<()> {
        let data = data(folder);
        std::fs::create_dir(&data)?;
        std::fs::set_permissions(&data, PermissionsExt::from_mode(0o700))?;
        if let Some((user, group)) = other_user()? {
            // That user has to reach its own folder.
            std::fs::set_permissions(folder, PermissionsExt::from_mode(0o711))?;
            chown(&data, Some(user), Some(group))?;
        }
        let mut command = program("initdb", folder)?;
        command.args(["--username=postgres", "--auth=trust", "--locale=C"]);
        command.args(["--encoding=UTF8", "--no-sync", "--pgdata"]);
        let command = command.arg(&data);
        let output = command.output().context("cannot run initdb")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "initdb failed: {error}");
        Ok(())
    }

    /// Copies a cluster that is not running from one folder to another one.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn copy(from: &Path, to: &Path) -> Result<()> {
        // Owners and permissions have to stay.
        let mut command = Command::new("cp");
        let output = command.arg("-a").arg(data(from)).arg(data(to)).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "cannot copy the databases: {error}"
        );
        if other_user()?.is_some() {
            std::fs::set_permissions(to, PermissionsExt::from_mode(0o711))?;
        }
        Ok(())
    }

    /// Starts the server of the cluster in the folder, and waits until it accepts connections.
    ///
    /// # Errors
    /// If it does not start; the error quotes its log.
    pub async fn start(folder: &Path) -> Result<Self> {
        let [port] = ports::free()?;
        let number = port.to_string();
        let mut command = program("postgres", folder)?;
        command.args(["-h", "127.0.0.1", "-p", &number, "-c", "fsync=off"]);
        command.args(["-c", "unix_socket_directories=", "-D"]);
        command.arg(data(folder));
        let process =
            GuardedCommand::new("PostgreSQL", command, folder.join("postgresql.log")).start()?;
        let ready = async || {
            if process.exit_code().is_some() {
                return Some(false);
            }
            let mut ready = program("pg_isready", folder).ok()?;
            ready.args(["--quiet", "--host=127.0.0.1", "--port", &number]);
            ready.status().ok()?.success().then_some(true)
        };
        wait::until(START_TIMEOUT, "PostgreSQL", ready).await?;
        process.ensure_running()?;
        Ok(Self {
            _process: process,
            port,
        })
    }

    /// The URL of its database `postgres` for Prefect.
    #[must_use]
    pub fn url(&self) -> String {
        let port = self.port;
        format!("postgresql+asyncpg://postgres@127.0.0.1:{port}/postgres")
    }
}

/// The version that would run, such as `postgres (PostgreSQL) 15.18`.
///
/// # Errors
/// If `PostgreSQL` is not installed.
pub fn version() -> Result<String> {
    let output = Command::new(path("postgres")?).arg("--version").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn data(folder: &Path) -> PathBuf {
    folder.join("postgresql")
}

/// A program that runs as the owner of the data, in the folder.
fn program(name: &str, folder: &Path) -> Result<Command> {
    let mut command = Command::new(path(name)?);
    command.env_clear().env("LC_ALL", "C").current_dir(folder);
    if let Some((user, group)) = other_user()? {
        command.uid(user).gid(group);
    }
    Ok(command)
}

/// The program of the newest installed version.
fn path(name: &str) -> Result<PathBuf> {
    let installed = std::fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let number = |folder: &Path| folder.file_name()?.to_str()?.parse::<u32>().ok();
    let programs = installed.filter_map(|entry| {
        let program = entry.path().join("bin").join(name);
        Some((number(&entry.path())?, program))
    });
    let found = programs.filter(|(_, program)| program.exists()).max();
    let Some((_, program)) = found else {
        bail!("no {name} in {VERSIONS}: install Debian's package postgresql");
    };
    Ok(program)
}

/// User and group of `postgres`, for a process of root.
fn other_user() -> Result<Option<(u32, u32)>> {
    if id(&["-u"])? != 0 {
        return Ok(None);
    }
    let user = id(&["-u", "postgres"])?;
    Ok(Some((user, id(&["-g", "postgres"])?)))
}

fn id(arguments: &[&str]) -> Result<u32> {
    let output = Command::new("id").args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.trim().parse();
    number.with_context(|| format!("no user {}", arguments.join(" ")))
}
