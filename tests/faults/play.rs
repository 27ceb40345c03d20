//! Plays the cases that the options select.
//!
//! Input: [`Options`]. Output: the table, and whether everything held.
//! Invariants: a failed case does not end the run.

use std::time::Duration;

use anyhow::Result;
use futures::StreamExt as _;

use crate::case::{Case, Outcome, Verdict};
use crate::options::Options;
use crate::{api_server, doppler, page, prefect, process, random, tenants};

/// Plays the selected cases. False if something did not hold.
pub async fn play(options: &Options) -> Result<bool> {
    if options.random {
        random::play(options.seed, Duration::from_mins(options.minutes)).await?;
        return Ok(true);
    }
    let cases = selected(options);
    if options.list {
        for case in &cases {
            println!("{}: {}", case.group.title(), case.fault);
        }
        return Ok(true);
    }
    let playing = futures::stream::iter(cases).map(|case| async move {
        let Case {
            group,
            fault,
            must_hold,
            play,
            ..
        } = case;
        let seen = play().await;
        let outcome = Outcome {
            group,
            fault,
            must_hold,
            seen,
        };
        println!("{}", page::line(&outcome));
        outcome
    });
    let mut outcomes: Vec<Outcome> = playing.buffer_unordered(options.parallel).collect().await;
    outcomes.sort_by(|a, b| (a.group, &a.fault).cmp(&(b.group, &b.fault)));
    for stage in [doppler::stage(), prefect::stage()] {
        stage.ensure_clean_log()?;
    }
    let count = |is: fn(&Verdict<'_>) -> bool| {
        let verdicts = outcomes.iter().map(Outcome::verdict);
        verdicts.filter(is).count()
    };
    let failed = count(|verdict| matches!(verdict, Verdict::Failed(_)));
    let skipped = count(|verdict| matches!(verdict, Verdict::Skipped(_)));
    println!(
        "{} faults played, {failed} did not hold; {skipped} skipped",
        outcomes.len() - skipped
    );
    if options.full && options.filters.is_empty() {
        page::write(&outcomes)?;
    }
    Ok(failed == 0)
}

fn selected(options: &Options) -> Vec<Case> {
    let all = doppler::cases()
        .into_iter()
        .chain(prefect::cases())
        .chain(api_server::cases())
        .chain(process::cases())
        .chain(tenants::cases());
    let is_named =
        |case: &Case, text: &String| case.fault.contains(text) || case.group.title().contains(text);
    let wanted = |case: &Case| {
        if options.filters.is_empty() {
            options.full || options.list || case.short
        } else {
            options.filters.iter().any(|text| is_named(case, text))
        }
    };
    all.filter(wanted).collect()
}
