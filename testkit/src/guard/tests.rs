use super::*;

fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // A zombie has exited, even if its parent has not reaped it.
    !stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .trim_start()
        .starts_with('Z')
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn shell(script: &str, log: &Path) -> GuardedCommand {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    GuardedCommand::new("a child", command, log)
}

#[test]
fn ends_the_child_when_the_value_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let child = shell("exec sleep 600", &folder.path().join("log"))
        .start()
        .unwrap();
    let pid = child.pid();
    assert!(is_alive(pid));
    drop(child);
    assert!(!is_alive(pid));
}

#[test]
fn ends_the_childs_own_children() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let child = shell("sleep 600 & echo $!; wait", &log).start().unwrap();
    let read = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("the grandchild's pid", || read().ends_with('\n'));
    let grandchild: u32 = read().trim().parse().unwrap();
    assert!(is_alive(grandchild));
    child.kill();
    assert_eq!(child.exit_code(), Some(128 + 9));
    eventually("the grandchild's end", || !is_alive(grandchild));
}

#[test]
fn kills_a_child_that_ignores_sigterm_after_the_grace() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let child = shell("trap '' TERM; echo ready; while :; do sleep 1; done", &log)
        .grace(Duration::from_millis(300))
        .start()
        .unwrap();
    eventually("the trap", || {
        std::fs::read_to_string(&log).is_ok_and(|log| log == "ready\n")
    });
    let pid = child.pid();
    drop(child);
    assert!(!is_alive(pid));
}

#[test]
fn reports_an_early_exit_with_the_log_tail() {
    let folder = tempfile::tempdir().unwrap();
    let child = shell("echo the reason >&2; exit 7", &folder.path().join("log"))
        .start()
        .unwrap();
    assert_eq!(child.wait(Duration::from_secs(20)), Some(7));
    let error = child.ensure_running().unwrap_err().to_string();
    assert!(
        error.contains("exit code 7") && error.contains("the reason"),
        "{error}"
    );
}

#[test]
fn reports_a_missing_program() {
    let folder = tempfile::tempdir().unwrap();
    let command = GuardedCommand::new(
        "nothing",
        Command::new("/nowhere/nothing"),
        folder.path().join("log"),
    );
    let error = format!("{:#}", command.run(Duration::from_secs(20)).unwrap_err());
    assert!(error.contains("/nowhere/nothing: No such file"), "{error}");
}

#[test]
fn a_command_over_its_time_limit_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let command = shell("echo begun; sleep 600", &folder.path().join("log"));
    let error = command.run(Duration::from_secs(1)).unwrap_err().to_string();
    assert!(
        error.contains("longer than 1s") && error.contains("begun"),
        "{error}"
    );
}

#[test]
fn sigterm_reaches_the_child() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let child = shell(
        "trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done",
        &log,
    )
    .start()
    .unwrap();
    eventually("the trap", || {
        std::fs::read_to_string(&log).is_ok_and(|log| log == "ready\n")
    });
    child.terminate();
    assert_eq!(child.wait(Duration::from_secs(20)), Some(3));
}

#[test]
fn a_paused_child_continues_after_resume() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let child = shell("while :; do echo tick; sleep 0.05; done", &log)
        .start()
        .unwrap();
    let state =
        || std::fs::read_to_string(format!("/proc/{}/stat", child.pid())).unwrap_or_default();
    child.pause();
    eventually("the child to stop", || state().contains(") T "));
    child.resume();
    eventually("the child to go on", || !state().contains(") T "));
}

/// The test binary runs itself with this variable set, as the parent that will be killed.
const PARENT: &str = "DOPPLER_PREFECT_TESTKIT_GUARD_PARENT";

#[test]
fn ends_the_grandchild_when_the_parent_is_killed() {
    if let Some(folder) = std::env::var_os(PARENT) {
        let folder = PathBuf::from(folder);
        let child = shell("exec sleep 600", &folder.join("log"))
            .start()
            .unwrap();
        std::fs::write(folder.join("pid.part"), child.pid().to_string()).unwrap();
        std::fs::rename(folder.join("pid.part"), folder.join("pid")).unwrap();
        std::thread::sleep(Duration::from_mins(10));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "guard::tests::ends_the_grandchild_when_the_parent_is_killed",
        ])
        .env(PARENT, folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let written = folder.path().join("pid");
    eventually("the parent to start a child", || written.exists());
    let grandchild: u32 = std::fs::read_to_string(&written).unwrap().parse().unwrap();
    assert!(is_alive(grandchild));
    parent.kill().unwrap();
    parent.wait().unwrap();
    eventually("the grandchild's end", || !is_alive(grandchild));
}
