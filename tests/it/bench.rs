//! The benchmark's short form: what the operator asks of the API server and upstream, by count. Times are the benchmark's own business.

use anyhow::{Result, ensure};
use testkit::bench::{Options, measure, table};

/// Figures whose counts are not all reached yet.
const NOT_YET: [&str; 3] = ["template", "limit", "restart"];

#[tokio::test]
async fn requests_and_writes_are_as_few_as_the_benchmark_says() -> Result<()> {
    let options = Options::short();
    let results = measure(
        &options,
        env!("CARGO_BIN_EXE_doppler-prefect-operator").into(),
    )
    .await?;
    let text = table::lines(&results).join("\n");
    ensure!(
        results.rows().filter(|row| row.is_count).count() > 10,
        "{text}"
    );
    for (figure, findings) in &results.figures {
        let wrong = findings
            .rows
            .iter()
            .any(|row| row.is_count && !row.is_met());
        ensure!(!wrong || NOT_YET.contains(&figure.as_str()), "{text}");
    }
    Ok(())
}
