//! The log.
//!
//! Input: format and filter.
//! Output: one subscriber, which writes to standard error.
//! Invariants: libraries whose log lines may contain secrets are silent, whatever the filter says: the
//! Kubernetes client logs bodies that it cannot parse, HTTP libraries log headers, and the WebSocket
//! library logs messages.

use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::args::LogFormat;

/// Targets whose log lines may contain the value of a Secret or a header.
const SILENCED: [&str; 13] = [
    "kube_client",
    "kube_core",
    "kube_runtime::watcher",
    "hyper",
    "hyper_util",
    "h2",
    "reqwest",
    "rustls",
    "tower",
    "tower_http",
    "axum",
    "tungstenite",
    "tokio_tungstenite",
];

/// The filter does not parse.
#[derive(Debug, thiserror::Error)]
#[error(
    "--log-filter {filter:?} is not a valid filter: use a level such as info, or warn,doppler_prefect_operator=debug"
)]
pub struct FilterError {
    filter: String,
}

/// Starts the log.
///
/// # Errors
/// If the filter does not parse.
pub fn start(format: LogFormat, filter: &str) -> Result<(), FilterError> {
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|_| FilterError {
            filter: filter.to_owned(),
        })?
        .and(filter_fn(|metadata| !is_silenced(metadata.target())));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed(),
    };
    // Only tests start it twice in one process.
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init();
    Ok(())
}

fn is_silenced(target: &str) -> bool {
    SILENCED.iter().any(|silenced| {
        target
            .strip_prefix(silenced)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silences_libraries_that_log_bodies_and_headers() {
        for target in [
            "kube_client::client",
            "kube_client",
            "hyper::proto",
            "h2::client",
            "reqwest::connect",
            "tungstenite::protocol",
        ] {
            assert!(is_silenced(target), "{target}");
        }
        for target in [
            "doppler_prefect_operator::controller",
            "kube_runtime::controller",
            "hyperion",
        ] {
            assert!(!is_silenced(target), "{target}");
        }
    }

    #[test]
    fn invalid_filter_says_what_to_use() {
        let error = start(LogFormat::Text, "a=b=c").unwrap_err();
        assert!(
            error.to_string().contains("use a level such as info"),
            "{error}"
        );
    }
}
