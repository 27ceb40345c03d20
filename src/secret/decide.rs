//! Decides what to do about a Secret.
//!
//! Input: the observed Secret, the desired Secret, and the claimant (the binding that wants it).
//! Output: a [`Decision`].
//! Invariants: pure; never decides to change a Secret that another controller or another binding
//! owns.

use super::{
    desired::Desired,
    metadata::{ADOPT, CONTENT_HASH},
    observed::{DataOwnership, MetadataKey, ObservedSecret, fingerprint_of_names},
};

/// What is known about the Secret of the desired name.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// The watch has not reported on it yet.
    Unknown,
    /// It does not exist.
    Absent,
    /// It exists.
    Present(&'a ObservedSecret),
}

/// The binding that wants the Secret.
#[derive(Clone, Copy, Debug)]
pub struct Claimant<'a> {
    /// The resourceVersion whose data the operator wrote, or compared and found equal.
    pub known_good: Option<&'a str>,
    /// Whether the binding may adopt a Secret that has no controller.
    pub adopt: Adoption,
    /// Whether the binding in the Secret's annotation ([`ObservedSecret::binding_uid`]) still
    /// exists. Ignored if that binding is the claimant itself.
    pub recorded_binding_exists: bool,
    /// Name of the binding.
    pub name: &'a str,
}

/// Whether a binding may adopt a Secret that has no controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// The spec does not ask for it.
    NotRequested,
    /// The spec asks for it, and the Secret has to name the binding in the annotation [`ADOPT`].
    WithConsent,
    /// The spec asks for it, and the operator's flags need no consent.
    WithoutConsent,
}

impl Adoption {
    /// What `spec.managedSecret.adopt` and `--adopt-without-consent` come to.
    #[must_use]
    pub const fn of(requested: bool, without_consent: bool) -> Self {
        match (requested, without_consent) {
            (false, _) => Self::NotRequested,
            (true, false) => Self::WithConsent,
            (true, true) => Self::WithoutConsent,
        }
    }

    /// Whether the binding may adopt the Secret.
    fn allows(self, observed: &ObservedSecret, name: &str) -> bool {
        match self {
            Self::NotRequested => false,
            Self::WithConsent => observed.has_annotation(ADOPT, name),
            Self::WithoutConsent => true,
        }
    }
}

/// The next step for the Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// POST it. If it exists after all, GET it and decide again.
    Create,
    /// Nothing to do.
    UpToDate,
    /// Patch it, guarded by its resourceVersion.
    Update {
        /// The version that the decision is based on.
        resource_version: Box<str>,
        /// Why it needs a patch.
        reason: UpdateReason,
    },
    /// GET it and compare the data: the metadata alone does not show whether they match.
    Verify,
    /// The operator does not manage it.
    Foreign {
        /// Its controller, such as `Certificate web`, if it has one.
        owner: Option<Box<str>>,
        /// Whether only the consent of the Secret's owner is missing.
        lacks_consent: bool,
    },
    /// The binding that wrote it no longer exists, and its pool entries are being removed.
    Orphaned {
        /// The name of that binding.
        by: Box<str>,
    },
    /// Another binding owns it.
    Claimed {
        /// The name of that binding.
        by: Box<str>,
    },
    /// It is being deleted. Wait until it no longer exists.
    Terminating,
}

/// Why a Secret needs a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateReason {
    /// The binding adopts it.
    Adopt,
    /// Doppler or the spec gives other data.
    Content,
    /// Labels, annotations or the owner reference differ.
    Metadata,
    /// Another client changed the data.
    Drift,
}

/// Decides what brings `target` to `desired`.
#[must_use]
pub fn decide(target: Target<'_>, desired: &Desired, claimant: &Claimant<'_>) -> Decision {
    let observed = match target {
        Target::Unknown => return Decision::Verify,
        Target::Absent => return Decision::Create,
        Target::Present(observed) => observed,
    };
    let update = |reason| Decision::Update {
        resource_version: observed.resource_version.clone(),
        reason,
    };
    if let Some(decision) = ownership_conflict(observed, desired, claimant) {
        return decision;
    }
    if observed.terminating {
        return Decision::Terminating;
    }
    if !observed.belongs_to(&desired.binding_uid) {
        return update(UpdateReason::Adopt);
    }
    if !observed.has_annotation(CONTENT_HASH, &desired.content_hash) {
        return update(UpdateReason::Content);
    }
    if !metadata_matches(observed, desired) {
        return update(UpdateReason::Metadata);
    }
    let names = fingerprint_of_names(desired.data.keys().map(String::as_str));
    if observed.data == DataOwnership::Ours(names)
        || claimant.known_good == Some(&*observed.resource_version)
    {
        Decision::UpToDate
    } else {
        Decision::Verify
    }
}

/// Decides again after [`Decision::Verify`], once the data have been compared.
#[must_use]
pub fn decide_content(observed: &ObservedSecret, content_matches: bool) -> Decision {
    if content_matches {
        Decision::UpToDate
    } else {
        Decision::Update {
            resource_version: observed.resource_version.clone(),
            reason: UpdateReason::Drift,
        }
    }
}

/// The decision if the Secret belongs to another binding or another controller.
fn ownership_conflict(
    observed: &ObservedSecret,
    desired: &Desired,
    claimant: &Claimant<'_>,
) -> Option<Decision> {
    let belongs = observed.belongs_to(&desired.binding_uid);
    let succeeds = succeeds(observed, &desired.binding_uid, claimant.name);
    if let (Some(recorded), false) = (&observed.binding_uid, belongs) {
        // With an owner reference, the garbage collector is about to delete the Secret of a deleted
        // binding. A retained Secret has none, and another binding can adopt it.
        if claimant.recorded_binding_exists || observed.is_owned_by_recorded_binding() {
            return Some(Decision::Claimed {
                by: observed
                    .binding
                    .clone()
                    .unwrap_or_else(|| recorded.to_string().into()),
            });
        }
        if observed.entry_record().is_some() && !succeeds {
            return Some(Decision::Orphaned {
                by: observed.binding.clone().unwrap_or_default(),
            });
        }
    }
    let controller = observed
        .controller
        .as_ref()
        .filter(|controller| controller.uid != *desired.binding_uid);
    // An owner reference to the claimant counts like the annotation: only the operator sets it, or
    // a client that may write the Secret anyway.
    let is_ours = belongs || succeeds || observed.is_owned_by(&desired.binding_uid);
    let adopts = claimant.adopt.allows(observed, claimant.name);
    if controller.is_some() || !(is_ours || adopts) {
        return Some(Decision::Foreign {
            owner: controller.map(|controller| controller.text.clone()),
            lacks_consent: controller.is_none() && claimant.adopt != Adoption::NotRequested,
        });
    }
    None
}

/// Whether the binding takes over what an earlier binding of the same name left: its Secret, and the
/// pool entries that name it. The earlier binding was deleted without its finalizer. A Secret that
/// was to outlive its binding is not taken over.
#[must_use]
pub fn succeeds(observed: &ObservedSecret, binding_uid: &str, name: &str) -> bool {
    let same_name = observed.binding.as_deref() == Some(name);
    let left = observed.entry_record().filter(|record| !record.retain);
    same_name && left.is_some() && !observed.belongs_to(binding_uid)
}

fn metadata_matches(observed: &ObservedSecret, desired: &Desired) -> bool {
    let owned = observed.is_owned_by(&desired.binding_uid);
    desired
        .labels
        .iter()
        .all(|(key, value)| observed.has_label(key, value))
        && desired
            .annotations
            .iter()
            .all(|(key, value)| observed.has_annotation(key, value))
        && owned == desired.owner.is_some()
        && !(desired.removes_entries && observed.entries.is_some())
        && obsolete_metadata(observed, desired).next().is_none()
}

/// The labels and annotations that the operator set and the spec no longer has.
pub(super) fn obsolete_metadata<'a>(
    observed: &'a ObservedSecret,
    desired: &'a Desired,
) -> impl Iterator<Item = &'a MetadataKey> {
    observed.managed_metadata().iter().filter(|key| match key {
        MetadataKey::Label(key) => !desired.labels.contains_key(&**key),
        MetadataKey::Annotation(key) => !desired.annotations.contains_key(&**key),
    })
}

#[cfg(test)]
mod tests;
