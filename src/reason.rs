//! The closed list of reasons: the same word in condition, Event, metric label and log, each with its class and its lines of the manual.
//!
//! In: nothing. Out: [`Reason`], what to do about it ([`Class`]), and `docs/reasons.md` ([`manual`]). This file never decides anything itself.

use std::fmt::{self, Write};

/// What the operator does after an outcome with this reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// All is well: polls go on.
    Settled,
    /// It may pass by itself: it is tried again with growing waits.
    Retry,
    /// The other side said when to come back: it is tried again then.
    WaitUntil,
    /// Only a change by somebody can help: it is looked at again when something it depends on changes, and at the ordinary interval.
    WaitForChange,
}

impl Class {
    const fn description(self) -> &'static str {
        match self {
            Self::Settled => "nothing; polls go on",
            Self::Retry => "tries again with growing waits",
            Self::WaitUntil => "tries again when the other side allows it",
            Self::WaitForChange => "waits for a change, and looks again at the ordinary interval",
        }
    }
}

impl Reason {
    /// Whether it says that an upstream, or the way to it, gave nothing that can be used.
    #[must_use]
    pub const fn is_upstream_failure(self) -> bool {
        matches!(
            self,
            Self::PrefectUnreachable
                | Self::PrefectUnauthorized
                | Self::PrefectForbidden
                | Self::PrefectRateLimited
                | Self::PrefectWrongUrl
                | Self::PrefectError
                | Self::BlockMissing
                | Self::BlockInvalid
                | Self::BlockMasked
                | Self::BlockIncomplete
                | Self::DopplerUnreachable
                | Self::DopplerUnauthorized
                | Self::DopplerForbidden
                | Self::ConfigMissing
                | Self::DopplerRateLimited
                | Self::DopplerError
                | Self::AnswerTooLarge
        )
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident, $class:ident, $stays:literal, $action:literal;)*) => {
        /// Why a condition is what it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[doc = $doc])* $name,)* }

        impl Reason {
            /// Every reason there is, in the order of the manual.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word in condition, Event, metric label and log.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What the operator does next.
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $(Self::$name => Class::$class,)* }
            }

            /// What happened, in the manual.
            #[must_use]
            pub const fn happened(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc,)*).trim_ascii(),)* }
            }

            /// What stays in force, in the manual.
            #[must_use]
            pub const fn stays(self) -> &'static str {
                match self { $(Self::$name => $stays,)* }
            }

            /// What the user can do, in the manual.
            #[must_use]
            pub const fn action(self) -> &'static str {
                match self { $(Self::$name => $action,)* }
            }
        }
    };
}

reasons! {
    /// Everything is in place.
    Ready, Settled, "the Secret and every pool entry", "nothing";
    /// The block was read and gave project, config and token, or the binding gives all three itself.
    Resolved, Settled, "everything", "nothing";
    /// The Secret holds what Doppler last gave.
    Synced, Settled, "the Secret", "nothing";
    /// Every named work pool carries the Secret.
    Injected, Settled, "every pool entry", "nothing";
    /// The first answer is still awaited.
    Pending, Retry, "whatever was there before", "wait a moment; if it stays, look at the operator's log";
    /// `spec.suspend` is true.
    Suspended, WaitForChange, "the Secret and the pool entries as they are", "set `spec.suspend` to false to go on";
    /// The binding is not one that the operator can read.
    InvalidSpec, WaitForChange, "the Secret and the pool entries as they are", "correct the field that the message names";
    /// A Secret, a ConfigMap or a key that the binding names is not there.
    ReferenceMissing, WaitForChange, "the Secret with its last good values", "create the object or the key that the message names, in the binding's namespace";
    /// A value that the binding refers to cannot be used: it is empty, not text, or not a certificate.
    ReferenceInvalid, WaitForChange, "the Secret with its last good values", "correct the value under the key that the message names";
    /// The operator's flags do not allow that host, or the URL is of a kind that is always refused.
    HostNotAllowed, WaitForChange, "the Secret with its last good values; nothing was sent to that host", "correct the host, or have it added to the operator's `--allowed-prefect-host` or `--allowed-doppler-host`";
    /// The Prefect server could not be reached, did not answer in time, or answered with a fault of its own.
    PrefectUnreachable, Retry, "the Secret with its last good values, and the pool entries", "look at the Prefect server, its Service and network policies";
    /// The Prefect server refused the credentials (401).
    PrefectUnauthorized, WaitForChange, "the Secret with its last good values", "correct `spec.prefect.server.apiKey` or `basicAuth`: self-hosted servers take `basicAuth`, Prefect Cloud takes `apiKey`";
    /// The credentials may not read blocks (403).
    PrefectForbidden, WaitForChange, "the Secret with its last good values", "give the API key's role the permission that the message names";
    /// The Prefect server asked for fewer requests (429).
    PrefectRateLimited, WaitUntil, "the Secret with its last good values", "raise `refreshInterval`, or the account's limit";
    /// The answer did not come from a Prefect API: the base URL is wrong, or something before the server answered.
    PrefectWrongUrl, WaitForChange, "the Secret with its last good values", "correct `spec.prefect.server`: the URL must be that of the API, and must not redirect";
    /// The Prefect server gave an answer that the operator does not understand.
    PrefectError, Retry, "the Secret with its last good values", "look at the Prefect server's log at the time of the condition";
    /// There is no such block document or block type.
    BlockMissing, WaitForChange, "the Secret with its last good values", "create the block, or correct `spec.prefect.block`";
    /// The block's data does not hold project, config and access token in a shape that is known.
    BlockInvalid, WaitForChange, "the Secret with its last good values", "store an object with `project`, `config` and `access_token` in the block, or set `spec.prefect.block.pointer`";
    /// The block's values came back as `********`: no permission to read them, or a corrupted block.
    BlockMasked, WaitForChange, "the Secret with its last good values", "give the API key's role \"View secret block data\"; if it has that, save the block again";
    /// Project, config or token is missing or empty.
    BlockIncomplete, WaitForChange, "the Secret with its last good values", "fill in the field that the message names, in the block or under `spec.doppler`";
    /// Doppler could not be reached, did not answer in time, or answered with a fault of its own.
    DopplerUnreachable, Retry, "the Secret with its last good values", "look at the network path to Doppler and at Doppler's status page";
    /// Doppler refused the token (401).
    DopplerUnauthorized, WaitForChange, "the Secret with its last good values", "put a valid token into the block or the Secret it comes from";
    /// The token has no access to that project or config.
    DopplerForbidden, WaitForChange, "the Secret with its last good values", "use a token that can read this config, or name the config that the token can read";
    /// Doppler knows no such project or config, or does not show it to this token.
    ConfigMissing, WaitForChange, "the Secret with its last good values", "correct project and config; nothing is deleted for this reason";
    /// Doppler asked for fewer requests (429).
    DopplerRateLimited, WaitUntil, "the Secret with its last good values", "raise `refreshInterval`, or use fewer distinct tokens and configs";
    /// Doppler gave an answer that the operator does not understand.
    DopplerError, Retry, "the Secret with its last good values", "look whether `spec.doppler.host` is Doppler's API";
    /// The answer was larger than the operator reads.
    AnswerTooLarge, WaitForChange, "the Secret with its last good values", "make the config or the block smaller";
    /// An answer without any value would empty a Secret that has content; it is refused until a second poll says the same.
    EmptyAnswer, Retry, "the Secret with its last good values", "if the config was not meant to be empty, look at it in Doppler, and at `include` and `exclude`";
    /// The values do not fit into a Kubernetes Secret (1 MiB).
    SecretTooLarge, WaitForChange, "the Secret with its last good values", "pass on fewer values with `include` or `exclude`, or split the config";
    /// A Secret of that name is there and is not the operator's.
    SecretForeign, WaitForChange, "the foreign Secret, untouched", "choose another `managedSecret.name`, remove that Secret, or set `managedSecret.adopt: true` if no controller owns it";
    /// Another binding writes a Secret of that name.
    SecretClaimed, WaitForChange, "the other binding's Secret", "choose another `managedSecret.name`; when the other binding goes, this one takes the Secret";
    /// The Secret is immutable, so that it cannot be updated.
    SecretImmutable, WaitForChange, "the Secret as it is", "delete it: it is written anew at once";
    /// A Secret of that name is there with a type other than `Opaque`.
    SecretWrongType, WaitForChange, "the Secret as it is", "choose another `managedSecret.name`, or delete that Secret";
    /// Somebody keeps changing the Secret; it is put back with growing waits.
    SecretContested, Retry, "the Secret, put back at growing intervals", "find who else writes it: `kubectl get secret NAME --show-managed-fields -o yaml`";
    /// The operator may not do that with Secrets here.
    SecretForbidden, Retry, "whatever was there before", "give the operator's service account the chart's Role in this namespace, or look which policy refuses it";
    /// The API server did not take the write.
    KubernetesError, Retry, "whatever was there before", "look at the message and at the API server; it is tried again";
    /// The namespace is going away, so nothing is written into it.
    NamespaceTerminating, WaitForChange, "nothing; pool entries are taken out", "nothing";
    /// There is no work pool of that name.
    PoolMissing, WaitForChange, "the Secret, and the other pools", "create the pool, or correct its name under `inject.workPools`";
    /// The credentials may not read or edit the work pool, or not list its deployments where `optional: false` needs that (403).
    PoolForbidden, WaitForChange, "the Secret; the pool as it is", "give the API key's role the permission that the message names, or use `mode: Observe` and add the entry yourself";
    /// The pool is not of type kubernetes, has an empty template, or a placeholder where the entry would go.
    PoolNotEditable, WaitForChange, "the Secret; the pool as it is", "do what the message says of that pool, or use `mode: Observe` and add the entry yourself";
    /// The pool's jobs, or with `optional: false` some deployment's, run in another namespace than the binding's, where the Secret is not.
    PoolOtherNamespace, WaitForChange, "the Secret; the pool as it is", "put the binding into the namespace of the pool's jobs, or change the pool's `namespace`";
    /// The pool sends its jobs to another cluster, where the Secret is not.
    PoolOtherCluster, WaitForChange, "the Secret; the pool as it is", "run the operator in that cluster, with a binding there";
    /// A `PrefectWorkPool` owns the pool's template.
    PoolManaged, WaitForChange, "the Secret; the pool as it is", "add the JSON patch of the message to its `spec.baseJobTemplate.patches`";
    /// Somebody keeps taking the entry out of the pool's template; it is put back with growing waits.
    PoolContested, Retry, "the Secret, and the entry at growing intervals", "find who else writes the template; let them add the entry, and use `mode: Observe`";
    /// Mode `Observe`, and no entry of the pool's template names the Secret.
    PoolEntryAbsent, WaitForChange, "the Secret; the pool as it is", "add the entry that the message gives where the template is kept";
    /// The Secret was written for the first time.
    SecretCreated, Settled, "the Secret", "nothing";
    /// The Secret was given new content.
    SecretUpdated, Settled, "the Secret", "nothing; runs that start from now on have it";
    /// Somebody changed or deleted the Secret, and it was put back from memory.
    SecretRepaired, Settled, "the Secret", "change the value in Doppler instead";
    /// The block or the binding now names another project or config.
    SourceChanged, Settled, "the Secret, now with the new config's values", "nothing, if it was meant";
    /// The entry was put into the pool's template.
    PoolPatched, Settled, "the pool entry", "nothing";
    /// The entry was taken out of the pool's template.
    PoolReleased, Settled, "the pool without the entry", "nothing";
    /// The binding is gone although its pool could not be cleaned; the Secret stays, so that runs still start.
    CleanupAbandoned, Settled, "the Secret, and the pool entry that names it", "take the entry out of the pool's template and delete the Secret, both named in the message";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `docs/reasons.md`, generated.
#[must_use]
pub fn manual() -> String {
    let mut page = String::from(
        "# Reasons\n\n<!-- Generated by `doppler-prefect-operator reasons`; do not edit. -->\n\n\
         The same word stands in a condition's `reason`, in an Event, in the label `reason` of the metrics and in the log.\n",
    );
    for reason in Reason::ALL {
        let _ = write!(
            page,
            "\n## {reason}\n\n{}\n\n- **Stays in force:** {}.\n- **The operator:** {}.\n- **What to do:** {}.\n",
            reason.happened(),
            reason.stays(),
            reason.class().description(),
            reason.action(),
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_a_valid_condition_reason_with_manual_text() {
        for reason in Reason::ALL {
            let word = reason.as_str();
            assert!(
                word.len() <= 64 && word.starts_with(|c: char| c.is_ascii_uppercase()),
                "{word}"
            );
            assert!(word.chars().all(|c| c.is_ascii_alphanumeric()), "{word}");
            assert!(
                reason.happened().ends_with('.'),
                "{word} does not say what happened"
            );
            assert!(
                !reason.stays().is_empty() && !reason.action().is_empty(),
                "{word}"
            );
        }
    }

    /// The code below `folder` without its tests and without this file.
    fn collect_code(folder: &std::path::Path, code: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                collect_code(&path, code);
            } else if path.extension().is_some_and(|end| end == "rs")
                && !name.ends_with("tests.rs")
                && name != "reason.rs"
            {
                let text = std::fs::read_to_string(&path).unwrap();
                code.push_str(text.split("#[cfg(test)]").next().unwrap());
            }
        }
    }

    /// The list is closed both ways: no other word is told, and no word stands in the manual that is never told.
    #[test]
    fn every_reason_is_used_in_the_code() {
        let mut code = String::new();
        collect_code(
            &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut code,
        );
        let told: std::collections::BTreeSet<&str> = code
            .split("Reason::")
            .skip(1)
            .filter_map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric()).next())
            .collect();
        for reason in Reason::ALL {
            assert!(told.contains(reason.as_str()), "{reason} is never told");
        }
    }

    #[test]
    fn manual_has_a_section_for_every_reason() {
        let page = manual();
        for reason in Reason::ALL {
            assert_eq!(
                page.matches(&format!("\n## {reason}\n")).count(),
                1,
                "{reason}"
            );
        }
    }
}
