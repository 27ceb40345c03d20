//! Prints the pool entries for the tool that owns a pool's template.
//!
//! Input: a binding, and the format of the other tool.
//! Output: the entry, and the mount if there is one, as a patch in that format.
//! Invariants: pure.

use crate::{
    args::PatchForm,
    crd::{DopplerPrefectBinding, WorkPoolSpec},
    inject::{patch_text, template::Entry},
};

/// The text to copy for each work pool that the binding names.
pub(super) fn patches(form: PatchForm, binding: &DopplerPrefectBinding) -> String {
    let entry = |pool: &WorkPoolSpec| Entry {
        secret: binding.secret_name().to_owned(),
        optional: pool.optional(),
        variable: pool.variable().map(str::to_owned),
        mount: None,
    };
    let entries = |pool: &WorkPoolSpec| -> Vec<Entry> {
        let mount = pool.mount.iter().map(|mount| Entry {
            mount: Some(mount.clone()),
            variable: None,
            ..entry(pool)
        });
        [entry(pool)].into_iter().chain(mount).collect()
    };
    let pools = &binding.spec.inject.work_pools;
    pools
        .iter()
        .map(|pool| patch_text(form, &pool.name, &entries(pool), None))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::input::parse_bindings;

    #[test]
    fn patch_names_the_secret_and_keeps_optional() {
        let smallest = include_str!("../../examples/smallest.yaml");
        let binding = parse_bindings(smallest).remove(0).unwrap();
        let patch: serde_json::Value =
            serde_json::from_str(&patches(PatchForm::Json, &binding)).unwrap();
        assert_eq!(
            patch[0]["value"][0]["secretRef"]["name"],
            binding.secret_name()
        );
        assert_eq!(patch[0]["value"][0]["secretRef"]["optional"], true);
    }
}
