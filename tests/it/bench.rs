//! The benchmark's short form: what the operator asks of the API server and upstream, by count. Times are the benchmark's own business.

use anyhow::{Result, ensure};
use bench::{Options, Row, measure, table};

/// The one count that is not reached, and what it is instead: docs/benchmarks says why.
const NOT_REACHED: (&str, f64) = ("GETs of one pool's template for 100 bindings", 3.0);

#[tokio::test]
async fn requests_and_writes_are_as_few_as_the_benchmark_says() -> Result<()> {
    let binary = env!("CARGO_BIN_EXE_doppler-prefect-operator");
    let results = measure(&Options::short(), binary.into(), |_, _| {}).await?;
    let text = table::lines(&results).join("\n");
    let counts: Vec<&Row> = results.rows().filter(|row| row.is_count).collect();
    ensure!(counts.len() > 10, "{text}");
    let (what, instead) = NOT_REACHED;
    let known = |row: &Row| row.what == what && row.measured.is_some_and(|count| count <= instead);
    ensure!(counts.iter().any(|row| row.what == what), "{text}");
    ensure!(
        counts.iter().all(|row| row.is_met() || known(row)),
        "{text}"
    );
    Ok(())
}
