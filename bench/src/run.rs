//! A run of the benchmark: builds the operator, measures, and publishes the results.
//!
//! Input: `Options`. Output: the table on standard output, and the files of `page`.
//! Invariants: only a full run writes to docs/benchmarks without `--out`.

use std::path::PathBuf;

use anyhow::Result;
use testkit::binary::{Profile, build, workspace};
use testkit::progress::output;

use crate::measure::measure;
use crate::options::Options;
use crate::result::Findings;
use crate::{page, table};

/// Measures the figures that the options ask for. False if the short form found a wrong count.
///
/// # Errors
/// When the operator cannot be built or the results cannot be written. A failed figure is
/// a row of the table.
pub async fn run(options: &Options) -> Result<bool> {
    if options.redraw {
        let folder = options.out.clone().unwrap_or_else(published);
        page::redraw(&folder)?;
        return Ok(true);
    }
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => build(Profile::Release).await?,
    };
    let print_figure = |figure: &str, findings: &Findings| {
        for line in table::part(figure, findings) {
            output(&line);
        }
    };
    let results = measure(options, binary, print_figure).await?;
    output("");
    for line in table::lines(&results) {
        output(&line);
    }
    if let Some(folder) = folder(options) {
        page::write(&results, &folder)?;
        output(&format!("written: {}", folder.display()));
    }
    Ok(!options.short || results.wrong_counts().is_empty())
}

/// The output folder; none if no results are written.
fn folder(options: &Options) -> Option<PathBuf> {
    let is_full = options.only.is_empty() && !options.short && !options.no_docs;
    options.out.clone().or_else(|| is_full.then(published))
}

/// The output folder of a full run.
fn published() -> PathBuf {
    workspace().join("docs/benchmarks")
}
