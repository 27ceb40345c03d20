//! The log.
//!
//! Input: format and filter.
//! Output: one subscriber, which writes to standard error.
//! Invariants: libraries whose log lines may contain secrets are silent, whatever the filter says: the
//! Kubernetes client logs bodies that it cannot parse, HTTP libraries log headers, and the WebSocket
//! library logs messages. Each event is one bounded line, whatever names and messages it holds: the
//! writer enforces it, so no log statement can bypass it.

use std::io;

use serde_json::{Map, Value};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{args::LogFormat, printable::one_line};

/// Longest line, in bytes: a message, and the fields beside it.
const MAX_LINE_BYTES: usize = 8 * 1024;
/// Longest field of a JSON line that would be longer than that.
const MAX_FIELD_BYTES: usize = 1024;

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
    let lines = lines(format, io::stderr);
    // Only tests start it twice in one process.
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init();
    Ok(())
}

/// Formats events, and writes each to `output` as one line.
fn lines<W: io::Write + 'static>(
    format: LogFormat,
    output: impl Fn() -> W + Send + Sync + 'static,
) -> Box<dyn Layer<Registry> + Send + Sync> {
    let lines = tracing_subscriber::fmt::layer().with_writer(move || LineWriter {
        format,
        output: output(),
    });
    match format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed(),
    }
}

/// Writes each event as one bounded line.
struct LineWriter<W> {
    format: LogFormat,
    output: W,
}

impl<W: io::Write> io::Write for LineWriter<W> {
    /// The formatter writes each event at once.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let mut line = if self.format == LogFormat::Json && event.len() > MAX_LINE_BYTES {
            shorten_fields(&text)
        } else {
            one_line(&text, MAX_LINE_BYTES)
        };
        line.push('\n');
        self.output.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// The JSON object with its long texts cut, so that it stays JSON. Escapes count too.
fn shorten_fields(event: &str) -> String {
    let fields: Map<String, Value> = serde_json::from_str(event).unwrap_or_default();
    let mut max_bytes = MAX_FIELD_BYTES;
    loop {
        let short: Map<String, Value> = fields
            .iter()
            .map(|(name, value)| match value {
                Value::String(text) => (name.clone(), one_line(text, max_bytes).into()),
                value => (name.clone(), value.clone()),
            })
            .collect();
        let line = Value::Object(short).to_string();
        if line.len() <= MAX_LINE_BYTES || max_bytes == 0 {
            return line;
        }
        max_bytes /= 2;
    }
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
    use crate::printable::has_control;
    use parking_lot::Mutex;
    use proptest::prelude::*;
    use std::sync::Arc;

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

    /// What is written of one event with this name and message.
    fn written(format: LogFormat, text: &str) -> String {
        #[derive(Clone, Default)]
        struct Output(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Output {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let output = Output::default();
        let writer = output.clone();
        let subscriber = tracing_subscriber::registry().with(lines(format, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(name = text, shown = %text, debug = ?text, "{text}");
        });
        let bytes = output.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    proptest! {
        #[test]
        fn an_event_is_one_bounded_line(text in "(\\PC|[\n\r\u{0}\u{1b}\u{85}\u{2028}\u{202e}]){0,80}") {
            for format in [LogFormat::Text, LogFormat::Json] {
                for text in [text.clone(), text.repeat(1000)] {
                    let line = written(format, &text);
                    let line = line.strip_suffix('\n').unwrap();
                    prop_assert!(!has_control(line), "{:?}", line);
                    prop_assert!(line.len() <= MAX_LINE_BYTES, "{}", line.len());
                    if format == LogFormat::Json {
                        let fields: Value = serde_json::from_str(line).unwrap();
                        prop_assert_eq!(&fields["level"], "WARN");
                    }
                }
            }
        }
    }

    #[test]
    fn a_line_break_begins_no_log_line() {
        let text = "pool\n2026-01-01T00:00:00Z  INFO forged: line";
        for format in [LogFormat::Text, LogFormat::Json] {
            assert_eq!(written(format, text).lines().count(), 1);
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
