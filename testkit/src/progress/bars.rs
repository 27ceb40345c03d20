//! The bars of all running steps, at the bottom of the terminal.
//!
//! Input: steps, and how far they are. Output: a bar for each step with a known count, a spinner
//! with the elapsed time for the others.
//! Invariants: bars are drawn only after `enable_bars`, and only if standard error is a terminal.
//! Test processes do not enable them, because libtest writes to the same terminal.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The interval between two drawings of the elapsed time.
const TICK: Duration = Duration::from_millis(200);
const SPINNER: &str = "{spinner} {msg} ({elapsed})";
const COUNTED: &str = "{spinner} {msg} [{bar:30}] {pos}/{len} ({elapsed})";

static BARS: OnceLock<MultiProgress> = OnceLock::new();

/// Draws bars instead of lines from now on, if standard error is a terminal.
pub fn enable_bars() {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    if std::io::stderr().is_terminal() && !is_dumb {
        BARS.get_or_init(MultiProgress::new);
    }
}

/// Runs `write` while no bar is drawn, so that its lines stay above the bars.
pub(super) fn suspended(write: impl FnOnce()) {
    match BARS.get() {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

/// The bar of one step. It disappears when it is dropped.
#[derive(Debug)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// A new bar; none if bars are not enabled.
    pub(super) fn start(what: &str, total: Option<usize>) -> Option<Self> {
        Some(Self::start_in(BARS.get()?, what, total))
    }

    fn start_in(bars: &MultiProgress, what: &str, total: Option<usize>) -> Self {
        let bar = match total {
            Some(total) => ProgressBar::new(total as u64).with_style(style(COUNTED)),
            None => ProgressBar::new_spinner().with_style(style(SPINNER)),
        };
        let bar = bars.add(bar.with_message(what.to_owned()));
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// Sets how many parts are done.
    pub(super) fn set(&self, done: usize) {
        self.0.set_position(done as u64);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use indicatif::{InMemoryTerm, ProgressDrawTarget};

    use super::*;

    fn terminal() -> (InMemoryTerm, MultiProgress) {
        let terminal = InMemoryTerm::new(10, 100);
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        (terminal, MultiProgress::with_draw_target(target))
    }

    #[test]
    fn parallel_steps_have_a_line_each() {
        let (terminal, bars) = terminal();
        let build = Bar::start_in(&bars, "building etcd", None);
        let sync = Bar::start_in(&bars, "bindings in sync", Some(10));
        sync.set(3);
        build.0.force_draw();
        sync.0.force_draw();
        let drawn = terminal.contents();
        let lines: Vec<_> = drawn.lines().collect();
        assert_eq!(lines.len(), 2, "{drawn}");
        assert!(lines[0].contains("building etcd ("), "{drawn}");
        assert!(
            lines[1].contains("bindings in sync [") && lines[1].contains("] 3/10 ("),
            "{drawn}"
        );
    }

    #[test]
    fn bar_disappears_with_its_step() {
        let (terminal, bars) = terminal();
        let build = Bar::start_in(&bars, "building etcd", None);
        build.0.force_draw();
        assert!(terminal.contents().contains("building etcd"));
        drop(build);
        assert_eq!(terminal.contents(), "");
    }

    #[test]
    fn bars_are_not_drawn_unless_enabled() {
        assert!(Bar::start("building", None).is_none());
    }
}
