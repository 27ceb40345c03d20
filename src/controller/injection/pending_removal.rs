//! An entry whose removal is not done, and what users read about it.
//!
//! Input: the entry, and how far its removal is.
//! Output: messages.
//! Invariants: a message names what to do with the pool, and no value.

use crate::{
    controller::pass::Pass,
    crd::InjectedEntry,
    inject::template::{EntryKey, volume_name},
    reason::Reason,
};

/// An entry that a pool still has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingRemoval {
    pub(super) entry: InjectedEntry,
    /// Why it is still there. None while its removal makes progress.
    pub(super) why: Option<String>,
    /// Why its server cannot be reached with the credentials of the record, or at all.
    pub(super) unreachable: Option<Reason>,
    /// Whether the operator tried to remove it and has a result.
    pub(super) attempted: bool,
    /// The deployments that choose the Secret, if it stays for them.
    pub(super) used_by: Option<Vec<String>>,
}

impl PendingRemoval {
    /// Whether the operator tried to remove the entry and has a result. Before that, nothing is
    /// known about the pool.
    #[must_use]
    pub const fn was_attempted(&self) -> bool {
        self.attempted
    }

    /// The pool, and the deployments for which its variable still offers the Secret. None if another
    /// reason keeps the entry.
    #[must_use]
    pub fn in_use(&self) -> Option<(&str, &[String])> {
        let used_by = self.used_by.as_deref()?;
        Some((&self.entry.pool, used_by))
    }

    /// What the deletion waits for.
    #[must_use]
    pub fn waiting_message(&self) -> String {
        format!("the operator has yet to remove {}", self.description())
    }

    /// What to do about the entry if the operator gives up. With a terminating namespace, the Secret
    /// is deleted.
    #[must_use]
    pub fn abandoned_message(&self, terminating: bool) -> String {
        let InjectedEntry {
            pool,
            secret,
            variable,
            mount,
            ..
        } = &self.entry;
        let (fate, then) = if terminating {
            (format!("Kubernetes deletes Secret {secret}"), "")
        } else {
            let stays =
                "entry and Secret stay, and the operator goes on trying while the Secret exists";
            (stays.to_owned(), ", then delete the Secret")
        };
        let what = match variable {
            _ if *mount => format!(
                "remove volume {} from volumes, and its mount from volumeMounts, in its base_job_template",
                volume_name(secret)
            ),
            None => format!(
                "remove {{\"secretRef\":{{\"name\":\"{secret}\"}}}} from envFrom in its base_job_template"
            ),
            Some(variable) => format!(
                "remove {secret} from the enum of variable {variable} in its base_job_template"
            ),
        };
        format!(
            "the operator could not remove {}; {fate}: run prefect work-pool inspect {pool} --output json, {what}, and run prefect work-pool update {pool} --base-job-template FILE{then}",
            self.description()
        )
    }

    /// What to change so that the name can go, and until when it stays.
    #[must_use]
    pub fn in_use_message(&self, pass: &Pass<'_>) -> String {
        let timeout = pass.context.settings.release_timeout.as_secs();
        format!(
            "{}; the name stays in the list for {timeout} s at most, and then their new runs are refused, or start without the values if the list is empty",
            self.why.as_deref().unwrap_or_default()
        )
    }

    fn description(&self) -> String {
        let InjectedEntry {
            server,
            pool,
            secret,
            variable,
            mount: _,
        } = &self.entry;
        let why = self.why.as_ref().map(|why| format!(" ({why})"));
        let why = why.unwrap_or_default();
        match variable {
            None => {
                let what = EntryKey::from(&self.entry).description();
                format!("{what} from work pool {pool} of {server}{why}")
            }
            Some(variable) => format!(
                "Secret {secret} from variable {variable} of work pool {pool} of {server}{why}"
            ),
        }
    }
}
