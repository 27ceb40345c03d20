//! The benchmark: what the operator needs beside the least that could be needed.
//!
//! In: options. Out: a table on standard output, and the results as JSON, charts and a page. Each figure has a control plane of its own, so that what
//! one leaves does not slow the next; the short form shares one.
//!
//! Never: a number that was not measured in this run.
//!
//! Reading order: `options` says what is asked for, `subject` what can be measured, `ours` is our operator and `floor` the least; `scene` is what one
//! measurement happens in, `observe` what is seen of it, `figures` are the measurements; `result` is what came of them, which `table`, `plot` and
//! `report` show.

mod figures;
mod floor;
mod machine;
mod observe;
mod options;
mod ours;
mod plot;
mod report;
mod result;
mod scene;
mod subject;
pub mod table;

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use futures::future::join_all;
use tokio::sync::OnceCell;

pub use options::Options;
pub use result::{Findings, Goal, Results, Row};

use figures::Figure;
use options::Sizes;
use ours::Ours;
use scene::Plan;
use subject::Subject;
use testkit::binary::{Profile, build, workspace};
use testkit::control_plane::{self, ControlPlane};
use testkit::progress::{self, Step};

/// What a figure is given.
pub struct Bench<'a> {
    plane: &'a ControlPlane,
    subject: &'a dyn Subject,
    sizes: Sizes,
    short: bool,
    floor: &'a OnceCell<floor::Known>,
}

impl<'a> Bench<'a> {
    fn new(
        plane: &'a ControlPlane,
        subject: &'a dyn Subject,
        options: &Options,
        floor: &'a OnceCell<floor::Known>,
    ) -> Self {
        Self {
            plane,
            subject,
            sizes: options.sizes(),
            short: options.short,
            floor,
        }
    }

    /// The plan of a small run on one config, without a pool.
    fn plan(&self) -> Plan {
        Plan {
            bindings: self.sizes.small,
            configs: 1,
            one_token: false,
            pool: false,
            real_prefect: false,
            keys: self.sizes.keys,
            delay: self.sizes.delay,
        }
    }

    /// The floor, found out on first use.
    async fn floor(&self) -> Result<&floor::Known> {
        self.floor.get_or_try_init(|| floor::know(self)).await
    }
}

/// Measures what is asked for. True if no count is wrong, or if counts are not judged.
///
/// # Errors
/// When the operator cannot be built or the results cannot be written. A figure that cannot be measured is a missed one.
pub async fn run(options: &Options) -> Result<bool> {
    if options.redraw {
        let folder = options.out.clone().unwrap_or_else(published);
        report::redraw(&folder)?;
        return Ok(true);
    }
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => build(Profile::Release).await?,
    };
    let heard = |figure: &str, findings: &Findings| {
        for line in table::part(figure, findings) {
            tell(&line);
        }
    };
    let results = measure(options, binary, heard).await?;
    tell("");
    for line in table::lines(&results) {
        tell(&line);
    }
    if let Some(folder) = folder(options) {
        report::write(&results, &folder)?;
        tell(&format!("written: {}", folder.display()));
    }
    let wrong = results.wrong_counts();
    Ok(!options.short || wrong.is_empty())
}

/// Where the results go, if anywhere.
fn folder(options: &Options) -> Option<PathBuf> {
    let whole = options.only.is_empty() && !options.short && !options.no_docs;
    options.out.clone().or_else(|| whole.then(published))
}

/// Where the results of a full run go.
fn published() -> PathBuf {
    workspace().join("docs/benchmarks")
}

/// Measures what is asked for, with the operator of that binary, and only that. `heard` hears what each figure found as soon as it is known.
///
/// # Errors
/// When no control plane can be started.
pub async fn measure(
    options: &Options,
    binary: PathBuf,
    heard: impl Fn(&str, &Findings),
) -> Result<Results> {
    let subject = Ours::new(binary);
    let mut machine = machine::describe();
    let floor = OnceCell::new();
    let sizes = options.sizes();
    let mut measured = Vec::new();
    if options.short {
        // Counts do not depend on who else is busy: all side by side.
        let plane = start().await?;
        let bench = Bench::new(&plane, &subject, options, &floor);
        measured = join_all(chosen(options).map(|figure| findings(figure, &bench, &heard))).await;
    } else {
        for figure in chosen(options) {
            let plane = start().await?;
            if let (true, Some(version)) = (measured.is_empty(), machine::kubernetes(&plane).await)
            {
                machine.push(version);
            }
            let bench = Bench::new(&plane, &subject, options, &floor);
            measured.push(findings(figure, &bench, &heard).await);
        }
    }
    machine.push((
        "the stand-ins' delay".to_owned(),
        format!("{} ms", sizes.delay.as_millis()),
    ));
    if let Some(known) = floor.get() {
        machine.push(("the floor's concurrency".to_owned(), pace(known)));
    }
    Ok(Results {
        subject: subject.name().to_owned(),
        machine,
        figures: measured,
    })
}

fn chosen(options: &Options) -> impl Iterator<Item = &'static Figure> {
    figures::ALL.iter().filter(|figure| {
        if options.only.is_empty() {
            figure.counts || !options.short
        } else {
            options.only.iter().any(|name| name == figure.name)
        }
    })
}

async fn start() -> Result<ControlPlane> {
    let crd = workspace().join("crds/dopplerprefectbindings.yaml");
    let manifests = vec![std::fs::read_to_string(crd)?];
    let options = control_plane::Options {
        manifests,
        ..control_plane::Options::default()
    };
    ControlPlane::start(options).await
}

/// What the figure finds; that it finds nothing is a row as well.
async fn findings(
    figure: &Figure,
    bench: &Bench<'_>,
    heard: &impl Fn(&str, &Findings),
) -> (String, Findings) {
    let step = Step::start(&format!("{}: {}", figure.name, figure.about));
    let findings = match (figure.measure)(bench).await {
        Ok(findings) => {
            step.finish();
            findings
        }
        Err(error) => {
            let why = format!("{error:#}");
            progress::line(&format!("{}: {why}", figure.name));
            let row = Row::failed(figure.about, figure.counts, &why);
            Findings {
                rows: vec![row],
                charts: Vec::new(),
            }
        }
    };
    heard(figure.name, &findings);
    (figure.name.to_owned(), findings)
}

fn pace(known: &floor::Known) -> String {
    let tried = known
        .tried
        .iter()
        .map(|(concurrency, rate)| format!("{concurrency}: {rate:.0}"));
    let tried: Vec<_> = tried.collect();
    format!(
        "{} (bindings a second at {})",
        known.concurrency,
        tried.join(", ")
    )
}

/// A line on standard output; nobody need read it.
fn tell(line: &str) {
    let line = format!("{line}\n");
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(line.as_bytes());
    let _ = out.flush();
}
