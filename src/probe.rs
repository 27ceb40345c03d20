//! The subcommand `probe`: whether a server of the operator answers, such as `/metrics` behind its
//! Service. The chart's test runs it.
//!
//! Input: a URL. Output: the exit code.
//! Invariants: it sends one request at a time, without a credential, and prints the status only. It
//! accepts every certificate, because it sends nothing and believes nothing.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use reqwest::StatusCode;
use tokio::time::{Instant, sleep};

use crate::args::ProbeArgs;

/// Time limit of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait between two requests.
const INTERVAL: Duration = Duration::from_millis(500);

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The HTTP client cannot be made, or no server answers.
    #[error("{}: no server answers: {}", .0.url().map_or("", |url| url.as_str()), root(.0))]
    NoAnswer(#[from] reqwest::Error),
    /// The server fails.
    #[error("the server answers {0}")]
    Fails(StatusCode),
    /// Standard output is closed.
    #[error("cannot write to standard output")]
    Output(#[from] io::Error),
}

/// The innermost cause, such as a refused connection.
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Sends requests until one is answered with a status below 500, or the time is over. A status such
/// as 401 also shows that the server runs.
///
/// # Errors
/// Those of the last request.
pub async fn probe(args: &ProbeArgs) -> Result<ExitCode, ProbeError> {
    let client = reqwest::Client::builder()
        .timeout(REQUEST_TIMEOUT)
        .danger_accept_invalid_certs(true)
        .build()?;
    let end = Instant::now() + args.timeout;
    loop {
        let error = match client.get(&args.url).send().await {
            Ok(answer) if !answer.status().is_server_error() => {
                writeln!(io::stdout(), "{} answers {}", args.url, answer.status())?;
                return Ok(ExitCode::SUCCESS);
            }
            Ok(answer) => ProbeError::Fails(answer.status()),
            Err(error) => error.into(),
        };
        if Instant::now() >= end {
            return Err(error);
        }
        sleep(INTERVAL).await;
    }
}
