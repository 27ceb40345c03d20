//! A fault of the table: what is broken, what must hold, and how it is played.
//!
//! Input: none. Output: the types [`Case`], [`Seen`] and [`Outcome`].
//! Invariants: a case that returns `Ok` has checked what must hold.

use std::pin::Pin;
use std::time::Duration;

use anyhow::Result;

/// The part of the world that a fault is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    Doppler,
    Prefect,
    ApiServer,
    Process,
    Tenants,
}

impl Group {
    /// All groups, in the order of the page.
    pub const ALL: [Self; 5] = [
        Self::Doppler,
        Self::Prefect,
        Self::ApiServer,
        Self::Process,
        Self::Tenants,
    ];

    /// The heading on the page.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Doppler => "Doppler",
            Self::Prefect => "Prefect",
            Self::ApiServer => "The API server",
            Self::Process => "The operator's process",
            Self::Tenants => "Tenants",
        }
    }
}

/// What a case saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// What the operator did, such as the reason that it reported.
    pub what: String,
    /// The requests that the broken server got meanwhile.
    pub requests: Option<u64>,
    /// How long the fault lasted.
    pub lasted: Option<Duration>,
    /// From the end of the fault until everything was as desired.
    pub recovery: Option<Duration>,
}

/// Why a case cannot be played on this machine. Any other error of a case means that something did not
/// hold.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Skipped(pub String);

/// A case that is being played.
pub type Playing = Pin<Box<dyn Future<Output = Result<Seen>>>>;

/// Plays a case.
pub type Play = Box<dyn FnOnce() -> Playing>;

/// A row of the table.
pub struct Case {
    pub group: Group,
    /// The fault, in a few words.
    pub fault: String,
    /// What must hold, in one sentence.
    pub must_hold: &'static str,
    /// Whether the short form plays it.
    pub short: bool,
    pub play: Play,
}

impl Case {
    /// A case of the long form.
    pub fn new<F>(
        group: Group,
        fault: impl Into<String>,
        must_hold: &'static str,
        play: impl FnOnce() -> F + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Seen>> + 'static,
    {
        Self {
            group,
            fault: fault.into(),
            must_hold,
            short: false,
            play: Box::new(move || Box::pin(play())),
        }
    }

    /// Plays the case in the short form too.
    #[must_use]
    pub fn in_short_form(mut self) -> Self {
        self.short = true;
        self
    }
}

/// A played case.
pub struct Outcome {
    pub group: Group,
    pub fault: String,
    pub must_hold: &'static str,
    pub seen: Result<Seen>,
}

/// What a played case came to.
pub enum Verdict<'a> {
    Held(&'a Seen),
    Skipped(&'a Skipped),
    Failed(&'a anyhow::Error),
}

impl Outcome {
    /// What the case came to.
    pub fn verdict(&self) -> Verdict<'_> {
        match &self.seen {
            Ok(seen) => Verdict::Held(seen),
            Err(error) => error
                .downcast_ref()
                .map_or(Verdict::Failed(error), Verdict::Skipped),
        }
    }
}
