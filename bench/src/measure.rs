//! Measures figures.
//!
//! Input: `Options`, and the binary of the operator. Output: `Results`.
//! Invariants: in the full form each figure has its own control plane, so that the objects of one
//! figure do not slow the next one down. The short form measures all figures at the same time on
//! one control plane, because counts hardly depend on the load. A failed figure is a row, and does
//! not stop the others.

use std::path::PathBuf;

use anyhow::Result;
use futures::future::join_all;
use testkit::binary::workspace;
use testkit::control_plane::{self, ControlPlane};
use testkit::progress::{self, Step};
use tokio::sync::OnceCell;

use crate::figures::{self, Figure, FigureContext};
use crate::floor::Calibration;
use crate::machine;
use crate::operator::OperatorSubject;
use crate::options::Options;
use crate::result::{Findings, Results, Row};
use crate::subject::Subject;

/// Measures the figures that the options ask for. `on_figure` gets the findings of each figure at
/// once.
///
/// # Errors
/// When no control plane can be started.
pub async fn measure(
    options: &Options,
    binary: PathBuf,
    on_figure: impl Fn(&str, &Findings),
) -> Result<Results> {
    let subject = OperatorSubject::new(binary);
    let mut machine = machine::describe();
    let calibration = OnceCell::new();
    let mut figures = Vec::new();
    if options.short {
        let plane = start_control_plane().await?;
        let context = context(&plane, &subject, options, &calibration);
        let chosen = chosen(options);
        figures = join_all(chosen.map(|figure| findings(figure, &context, &on_figure))).await;
    } else {
        for figure in chosen(options) {
            let plane = start_control_plane().await?;
            if figures.is_empty() {
                machine.extend(machine::kubernetes(&plane).await);
            }
            let context = context(&plane, &subject, options, &calibration);
            figures.push(findings(figure, &context, &on_figure).await);
        }
    }
    let delay = options.sizes().delay.as_millis();
    machine.push(("the stand-ins' delay".to_owned(), format!("{delay} ms")));
    if let Some(calibration) = calibration.get() {
        let concurrency = concurrency_text(calibration);
        machine.push(("the floor's concurrency".to_owned(), concurrency));
    }
    Ok(Results {
        subject: subject.name().to_owned(),
        machine,
        figures,
    })
}

fn context<'a>(
    plane: &'a ControlPlane,
    subject: &'a dyn Subject,
    options: &Options,
    calibration: &'a OnceCell<Calibration>,
) -> FigureContext<'a> {
    FigureContext {
        plane,
        subject,
        sizes: options.sizes(),
        counts_only: options.short,
        calibration,
    }
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

async fn start_control_plane() -> Result<ControlPlane> {
    let crd = workspace().join("crds/dopplerprefectbindings.yaml");
    let manifests = vec![std::fs::read_to_string(crd)?];
    let options = control_plane::Options {
        manifests,
        ..control_plane::Options::default()
    };
    ControlPlane::start(options).await
}

/// The findings of a figure. A failure is a row.
async fn findings(
    figure: &Figure,
    context: &FigureContext<'_>,
    on_figure: &impl Fn(&str, &Findings),
) -> (String, Findings) {
    let step = Step::start(&format!("{}: {}", figure.name, figure.about));
    let findings = match (figure.measure)(context).await {
        Ok(findings) => {
            step.finish();
            findings
        }
        Err(error) => {
            let reason = format!("{error:#}");
            progress::line(&format!("{}: {reason}", figure.name));
            Findings::rows(vec![Row::failed(figure.about, figure.counts, &reason)])
        }
    };
    on_figure(figure.name, &findings);
    (figure.name.to_owned(), findings)
}

fn concurrency_text(calibration: &Calibration) -> String {
    let rates = calibration
        .rates
        .iter()
        .map(|(concurrency, rate)| format!("{concurrency}: {rate:.0}"));
    let rates: Vec<_> = rates.collect();
    format!(
        "{} (bindings a second at {})",
        calibration.concurrency,
        rates.join(", ")
    )
}
