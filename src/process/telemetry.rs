//! The log.
//!
//! In: format and filter. Out: one subscriber on standard error. The Kubernetes client writes whole bodies that it cannot parse, those of Secrets
//! included, HTTP libraries write headers, and the WebSocket library whole messages: these targets are silent whatever the filter says.

use tracing::Metadata;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::args::LogFormat;

/// Targets that may write what a Secret or a header holds.
const SILENT: [&str; 13] = [
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
    "--log-filter {filter:?} is not a filter: write a level such as info, or warn,doppler_prefect_operator=debug"
)]
pub struct FilterError {
    filter: String,
}

/// Starts the log.
///
/// # Errors
/// If the filter does not parse, or a log has been started before.
pub fn start(format: LogFormat, filter: &str) -> Result<(), FilterError> {
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|_| FilterError {
            filter: filter.to_owned(),
        })?
        .and(filter_fn(may_be_written));
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
    // A second start can only come from a test that runs in this process.
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init();
    Ok(())
}

fn may_be_written(metadata: &Metadata<'_>) -> bool {
    !is_silent(metadata.target())
}

fn is_silent(target: &str) -> bool {
    SILENT.iter().any(|silent| {
        target
            .strip_prefix(silent)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_that_write_bodies_and_headers_are_silent() {
        for target in [
            "kube_client::client",
            "kube_client",
            "hyper::proto",
            "h2::client",
            "reqwest::connect",
            "tungstenite::protocol",
        ] {
            assert!(is_silent(target), "{target}");
        }
        for target in [
            "doppler_prefect_operator::controller",
            "kube_runtime::controller",
            "hyperion",
        ] {
            assert!(!is_silent(target), "{target}");
        }
    }

    #[test]
    fn a_bad_filter_says_what_to_write() {
        let error = start(LogFormat::Text, "a=b=c").unwrap_err();
        assert!(
            error.to_string().contains("write a level such as info"),
            "{error}"
        );
    }
}
