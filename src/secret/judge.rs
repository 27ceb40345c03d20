//! What is to be done about a Secret.
//!
//! In: what is known of the one that is there, the one that should be, and who asks. Out: a [`Verdict`]. Pure.

use super::{
    desired::Desired,
    facts::{Data, Facts, fingerprint_of_names},
};

/// What is known of the Secret's place.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// Nothing yet: the watch has not said.
    Unknown,
    /// There is none.
    Absent,
    /// This one is there.
    There(&'a Facts),
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// resourceVersion at which the content was written by us, or compared and found right.
    pub known_good: Option<&'a str>,
    /// Whether a Secret that nobody controls may be taken.
    pub adopt: bool,
    /// Whether the binding that the Secret's annotation names (see [`Facts::binding_uid`]) is still there. Of no account if that is the asker.
    pub claimant_lives: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// POST it; if it is there after all, GET it and judge again.
    Create,
    /// Nothing.
    Current,
    /// Patch it at this resourceVersion.
    Update {
        /// The version that was judged.
        resource_version: Box<str>,
        /// Why.
        why: Why,
    },
    /// GET it and compare the content: the metadata alone does not tell.
    Verify,
    /// It is not ours.
    Foreign {
        /// Its controller, such as `Certificate web`, if it has one.
        owner: Option<Box<str>>,
    },
    /// It belongs to another binding.
    Claimed {
        /// That binding's name.
        by: Box<str>,
    },
    /// It is being deleted: wait until it is gone.
    Terminating,
}

/// Why a Secret is patched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is taken over.
    Adopt,
    /// Doppler or the spec gives other content.
    Content,
    /// Labels, annotations or the owner reference differ.
    Metadata,
    /// Somebody changed the content.
    Drift,
}

/// What is to be done to bring `target` to `desired`.
#[must_use]
pub fn judge(target: Target<'_>, desired: &Desired, asker: &Asker<'_>) -> Verdict {
    let facts = match target {
        Target::Unknown => return Verdict::Verify,
        Target::Absent => return Verdict::Create,
        Target::There(facts) => facts,
    };
    let update = |why| Verdict::Update {
        resource_version: facts.resource_version.clone(),
        why,
    };
    if let Some(verdict) = not_ours(facts, desired, asker) {
        return verdict;
    }
    if facts.terminating {
        return Verdict::Terminating;
    }
    if facts.binding_uid.as_deref() != Some(&*desired.binding_uid) {
        return update(Why::Adopt);
    }
    if facts.content_hash.as_deref() != Some(&*desired.content_hash) {
        return update(Why::Content);
    }
    if !metadata_is_right(facts, desired) {
        return update(Why::Metadata);
    }
    let names = fingerprint_of_names(desired.data.keys().map(String::as_str));
    if facts.data == Data::Ours(names) || asker.known_good == Some(&*facts.resource_version) {
        Verdict::Current
    } else {
        Verdict::Verify
    }
}

/// What is to be done once the content was looked at for [`Verdict::Verify`]: `judge` said nothing else is wrong.
#[must_use]
pub fn judge_content(facts: &Facts, content_is_right: bool) -> Verdict {
    if content_is_right {
        Verdict::Current
    } else {
        Verdict::Update {
            resource_version: facts.resource_version.clone(),
            why: Why::Drift,
        }
    }
}

fn not_ours(facts: &Facts, desired: &Desired, asker: &Asker<'_>) -> Option<Verdict> {
    let ours = facts.binding_uid.as_deref() == Some(&*desired.binding_uid);
    if let (Some(claimant), false) = (facts.binding_uid.as_deref(), ours) {
        // A binding that is gone claims its Secret for as long as the garbage collector is about to take it; a retained one can be adopted.
        if asker.claimant_lives || facts.owners.iter().any(|owner| **owner == *claimant) {
            return Some(Verdict::Claimed {
                by: facts.binding.clone().unwrap_or_else(|| claimant.into()),
            });
        }
    }
    let controller = facts
        .controller
        .as_ref()
        .filter(|controller| *controller.uid != *desired.binding_uid);
    // An owner reference to the asker is as good as the annotation: only our own writes, or someone who may write the Secret anyway, set it.
    let mine = ours
        || facts
            .owners
            .iter()
            .any(|owner| **owner == *desired.binding_uid);
    if controller.is_some() || !(mine || asker.adopt) {
        return Some(Verdict::Foreign {
            owner: controller.map(|controller| controller.text.clone()),
        });
    }
    None
}

fn metadata_is_right(facts: &Facts, desired: &Desired) -> bool {
    let owned = facts
        .owners
        .iter()
        .any(|owner| **owner == *desired.binding_uid);
    desired
        .labels
        .iter()
        .all(|(key, value)| facts.has_label(key, value))
        && desired
            .annotations
            .iter()
            .all(|(key, value)| facts.has_annotation(key, value))
        && owned == desired.owner.is_some()
        && dropped(facts, desired).next().is_none()
}

/// Labels and annotations that we once set and the spec no longer has.
pub(super) fn dropped<'a>(
    facts: &'a Facts,
    desired: &'a Desired,
) -> impl Iterator<Item = &'a super::facts::Entry> {
    use super::facts::Entry;
    facts.own().iter().filter(|entry| match entry {
        Entry::Label(key) => !desired.labels.contains_key(&**key),
        Entry::Annotation(key) => !desired.annotations.contains_key(&**key),
    })
}
