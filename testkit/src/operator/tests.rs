use super::*;

/// What the tests need of an operator's binary: flags, probes, metrics, SIGTERM.
const STAND_IN: &str = r#"#!/usr/bin/env python3
import http.server, os, signal, sys, threading
flags = dict(zip(sys.argv[2::2], sys.argv[3::2]))
if "--die" in flags:
    sys.exit("unknown flag: --die")
print({"arguments": sys.argv[1:], "environment": sorted(os.environ)}, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    requests = 0
    def do_GET(self):
        Handler.requests += 1
        ready = self.path != "/readyz" or Handler.requests > 3
        self.send_response(200 if ready else 503)
        self.end_headers()
        self.wfile.write(b"bindings 3\n")
for flag in ("--metrics-address", "--health-address"):
    host, port = flags[flag].split(":")
    server = http.server.ThreadingHTTPServer((host, int(port)), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while True:
    signal.pause()
"#;

fn stand_in(folder: &Path, args: &[&str]) -> OperatorOptions {
    use std::os::unix::fs::PermissionsExt;
    let binary = folder.join("operator");
    std::fs::write(&binary, STAND_IN).unwrap();
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
    OperatorOptions {
        binary,
        kubeconfig: folder.join("kubeconfig"),
        args: args.iter().map(|&argument| argument.to_owned()).collect(),
        env: vec![("MINE".to_owned(), "yes".to_owned())],
        log: None,
    }
}

#[tokio::test]
async fn starts_in_a_clean_environment_and_ends_on_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let operator = Operator::start(stand_in(folder.path(), &["--watch-namespace", "flows"]))
        .await
        .unwrap();
    let log = operator.log().unwrap();
    assert!(
        log.contains("'run', '--log-format', 'json', '--log-filter', 'trace'"),
        "{log}"
    );
    assert!(
        log.contains("'--watch-namespace', 'flows'") && log.contains("'MINE'"),
        "{log}"
    );
    assert!(
        std::env::var_os("CARGO_MANIFEST_DIR").is_some() && !log.contains("CARGO"),
        "{log}"
    );
    assert_eq!(operator.metrics().await.unwrap(), "bindings 3\n");
    assert!(operator.rss_kib().unwrap() > 1000);
    assert_eq!(
        operator.terminate(Duration::from_secs(20)).await.unwrap(),
        0
    );
    assert!(operator.rss_kib().is_err());
}

#[tokio::test]
async fn an_early_exit_is_an_error_with_the_log_tail() {
    let folder = tempfile::tempdir().unwrap();
    let error = Operator::start(stand_in(folder.path(), &["--die", "now"]))
        .await
        .unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains("exit code 1") && error.contains("unknown flag: --die"),
        "{error}"
    );
}
