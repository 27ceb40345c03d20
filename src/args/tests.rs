use super::*;
use clap::CommandFactory;

#[test]
fn command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn defaults_match_the_manual() {
    let cli = Cli::parse_from(["doppler-prefect-operator", "run"]);
    let Command::Run(args) = cli.command else {
        panic!("not run")
    };
    assert_eq!(args.refresh_interval, Duration::from_mins(1));
    assert_eq!(args.stale_after, Duration::from_mins(5));
    assert_eq!(args.release_wait, Duration::from_secs(90));
    assert_eq!(args.upstream.allowed_doppler_hosts, ["api.doppler.com"]);
    assert!(args.watch_namespaces.is_empty());
    assert!(!args.election.leader_election);
    assert!(!args.runs.watch_run_pods);
    assert_eq!(args.webhook.webhook_secrets, None);
}

#[test]
fn invalid_duration_names_a_valid_one() {
    assert_eq!(interval("25h").unwrap_err(), "must be from 1s to 24h");
    assert_eq!(
        duration("soon").unwrap_err(),
        "use a duration such as 90s, 5m or 1h"
    );
    assert_eq!(duration("0s").unwrap_err(), "must be longer than zero");
    assert_eq!(duration("1h30m").unwrap(), Duration::from_mins(90));
}
