//! The configs of a binding: one, or those of `spec.doppler.configs`. The controller and `check` use
//! these functions.
//!
//! Input: the spec, the fields of the block, and the tokens that the spec references.
//! Output: one [`ConfigKey`] for each config, in the order of the spec.
//! Invariants: no request to an upstream. Each item is held to the same rules as a single config.

use secrecy::SecretString;

use super::{
    connect::{self, access_token_reference, override_block, resolve_overrides, resolve_token},
    key_refs::{KeyReference, KeyRefs},
    object_cache::ObjectCache,
};
use crate::{
    args::BlockOverrides,
    crd::{ConfigSource, DopplerSpec},
    doppler::ConfigKey,
    failure::Failure,
    prefect::block::{BlockFields, CompleteFields, Field},
    printable,
    reason::Reason,
};

/// What the binding sets itself, with the values of its token references.
pub struct Overrides {
    /// The fields of `spec.doppler`.
    pub fields: BlockFields,
    /// The token of each item of `spec.doppler.configs`, if it has one of its own.
    pub tokens: Vec<Option<SecretString>>,
}

impl Overrides {
    /// Resolves the token references of a binding in `namespace`.
    ///
    /// # Errors
    /// If one cannot be resolved.
    pub async fn resolve(
        resolver: &KeyRefs,
        objects: &ObjectCache,
        namespace: &str,
        doppler: &DopplerSpec,
    ) -> Result<Self, Failure> {
        let fields = resolve_overrides(resolver, objects, namespace, doppler).await?;
        let mut tokens = Vec::with_capacity(doppler.configs.len());
        for (at, item) in doppler.configs.iter().enumerate() {
            tokens.push(match token_reference(namespace, at, item) {
                Some(reference) => Some(resolve_token(resolver, objects, &reference).await?),
                None => None,
            });
        }
        Ok(Self { fields, tokens })
    }

    /// The fields that only a block can give.
    #[must_use]
    pub fn missing(&self) -> Vec<Field> {
        let mut missing = self.fields.missing();
        if !self.tokens.is_empty() {
            let all_have_tokens = self.tokens.iter().all(Option::is_some);
            let of_config = |field: &Field| matches!(field, Field::Project | Field::Config);
            missing.retain(|field| !of_config(field) && !all_have_tokens);
        }
        missing
    }
}

/// All tokens that the binding references.
#[must_use]
pub fn all_token_references(namespace: &str, doppler: &DopplerSpec) -> Vec<KeyReference> {
    let items = doppler.configs.iter().enumerate();
    let tokens = items.filter_map(|(at, item)| token_reference(namespace, at, item));
    let first = access_token_reference(namespace, doppler).into_iter();
    first.chain(tokens).collect()
}

fn token_reference(namespace: &str, at: usize, item: &ConfigSource) -> Option<KeyReference> {
    let token = item.access_token.as_ref()?;
    let field = format!("{}.accessToken", path(at));
    Some(connect::token_reference(namespace, token, field))
}

fn path(at: usize) -> String {
    format!("spec.doppler.configs[{at}]")
}

/// The keys of all configs, from the fields of a block and those that the binding sets. `key_of` gives
/// the key for the fields of one config.
///
/// # Errors
/// If a field is missing, the flags forbid it to use the block's token for a config, or `key_of` fails.
pub fn config_keys(
    doppler: &DopplerSpec,
    block: &BlockFields,
    overrides: &Overrides,
    policy: BlockOverrides,
    key_of: impl Fn(CompleteFields) -> Result<ConfigKey, Failure>,
) -> Result<Vec<ConfigKey>, Failure> {
    let own = &overrides.fields;
    if doppler.configs.is_empty() {
        let fields = override_block(block.clone(), own.clone(), policy)?;
        return Ok(vec![key_of(fields.complete()?)?]);
    }
    let items = doppler.configs.iter().enumerate().zip(&overrides.tokens);
    let keys = items.map(|((at, item), token)| {
        let fields = BlockFields {
            project: Some(item.project.clone()),
            config: Some(item.config.clone()),
            access_token: token.clone().or_else(|| own.access_token.clone()),
            identity: own.identity.clone(),
            // A token of its own comes before the identity of the binding.
            uses_identity: own.uses_identity && token.is_none(),
        };
        let fields = override_block(block.clone(), fields, policy);
        let fields = fields.map_err(|failure| of_item(failure, at, item))?;
        key_of(fields.complete()?)
    });
    keys.collect()
}

/// The failure of an item that needs the token of a block that names another config.
fn of_item(failure: Failure, at: usize, item: &ConfigSource) -> Failure {
    if failure.reason != Reason::OverrideNotAllowed {
        return failure;
    }
    let (path, config) = (path(at), name_of(&item.project, &item.config));
    let message = format!(
        "{path} names {config}, which is not what the block names, and the operator's --block-overrides=deny forbids to use the block's token for it: set {path}.accessToken"
    );
    Failure { message, ..failure }
}

/// A config in a message.
#[must_use]
pub fn name_of(project: &str, config: &str) -> String {
    format!("{}/{}", printable::name(project), printable::name(config))
}

/// What was resolved, `from` a source that gives it.
#[must_use]
pub fn resolved_text(doppler: &DopplerSpec, from: &str, keys: &[ConfigKey]) -> String {
    if let ([key], true) = (keys, doppler.configs.is_empty()) {
        return format!("{from} project {}, config {}", key.project, key.config);
    }
    let names = keys.iter().map(|key| name_of(&key.project, &key.config));
    let names: Vec<String> = names.collect();
    format!("{from} the token for configs {}", names.join(", "))
}

/// The failure of one of several configs, which its message names.
#[must_use]
pub fn of_config(failure: &Failure, at: usize, key: &ConfigKey) -> Failure {
    let message = format!(
        "{} ({}): {}",
        path(at),
        name_of(&key.project, &key.config),
        failure.message
    );
    Failure {
        message,
        ..failure.clone()
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::{doppler::Credential, prefect::block::FieldCredential};

    fn two() -> DopplerSpec {
        let configs = serde_json::json!([
            {"project": "shared", "config": "prd"},
            {"project": "etl", "config": "prd"},
        ]);
        serde_json::from_value(serde_json::json!({"configs": configs})).unwrap()
    }

    fn fields(project: Option<&str>, config: Option<&str>, token: Option<&str>) -> BlockFields {
        BlockFields {
            project: project.map(str::to_owned),
            config: config.map(str::to_owned),
            access_token: token.map(SecretString::from),
            ..BlockFields::default()
        }
    }

    fn overrides(default: Option<&str>, tokens: [Option<&str>; 2]) -> Overrides {
        Overrides {
            fields: fields(None, None, default),
            tokens: tokens.map(|token| token.map(SecretString::from)).into(),
        }
    }

    fn keys(
        block: &BlockFields,
        overrides: &Overrides,
        policy: BlockOverrides,
    ) -> Result<Vec<(String, String)>, Failure> {
        let key_of = |fields: CompleteFields| {
            let token = match fields.credential {
                FieldCredential::Token(token) => token,
                FieldCredential::Identity(id) => format!("identity {id}").into(),
            };
            Ok(ConfigKey {
                host: "https://api.doppler.com".parse().unwrap(),
                credential: Credential::Token(token),
                project: fields.project,
                config: fields.config,
                transformer: None,
            })
        };
        let keys = config_keys(&two(), block, overrides, policy, key_of)?;
        let pair = |key: &ConfigKey| {
            let Credential::Token(token) = &key.credential else {
                panic!("no token");
            };
            let token = token.expose_secret().to_owned();
            (name_of(&key.project, &key.config), token)
        };
        Ok(keys.iter().map(pair).collect())
    }

    #[test]
    fn the_token_of_an_item_comes_before_the_identity_of_the_binding() {
        let block = fields(Some("p"), Some("dev"), Some("block"));
        let mut overrides = overrides(None, [None, Some("own")]);
        overrides.fields.identity = Some("id".to_owned());
        overrides.fields.uses_identity = true;
        // An identity is the binding's own credential.
        let found = keys(&block, &overrides, BlockOverrides::Deny).unwrap();
        let credentials: Vec<&str> = found.iter().map(|(_, token)| token.as_str()).collect();
        assert_eq!(credentials, ["identity id", "own"]);
        assert!(overrides.missing().is_empty());
    }

    #[test]
    fn each_item_has_its_own_token_or_the_default() {
        let block = fields(Some("p"), Some("dev"), Some("block"));
        for (default, tokens, expected) in [
            (None, [None, None], ["block", "block"]),
            (Some("spec"), [None, None], ["spec", "spec"]),
            (Some("spec"), [None, Some("own")], ["spec", "own"]),
            (None, [Some("own"), None], ["own", "block"]),
        ] {
            let overrides = overrides(default, tokens);
            let found = keys(&block, &overrides, BlockOverrides::Allow).unwrap();
            let names = ["shared/prd", "etl/prd"].map(str::to_owned);
            let expected: Vec<_> = names.into_iter().zip(expected.map(str::to_owned)).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn deny_keeps_the_blocks_token_to_its_config() {
        let block = fields(Some("shared"), Some("prd"), Some("block"));
        let deny = |overrides: &Overrides| keys(&block, overrides, BlockOverrides::Deny);
        let failure = deny(&overrides(None, [None, None])).unwrap_err();
        assert_eq!(failure.reason, Reason::OverrideNotAllowed);
        let expected = "spec.doppler.configs[1] names etl/prd, which is not what the block names";
        assert!(failure.message.starts_with(expected), "{}", failure.message);
        let fix = "set spec.doppler.configs[1].accessToken";
        assert!(failure.message.ends_with(fix), "{}", failure.message);
        assert!(deny(&overrides(None, [None, Some("own")])).is_ok());
        assert!(deny(&overrides(Some("spec"), [None, None])).is_ok());
    }

    #[test]
    fn only_a_missing_token_needs_a_block() {
        let token = vec![Field::AccessToken];
        assert_eq!(overrides(None, [Some("a"), None]).missing(), token);
        assert!(overrides(None, [Some("a"), Some("b")]).missing().is_empty());
        assert!(overrides(Some("a"), [None, None]).missing().is_empty());
        let nothing = BlockFields::default();
        let overrides = overrides(None, [Some("a"), None]);
        let failure = keys(&nothing, &overrides, BlockOverrides::Allow).unwrap_err();
        assert_eq!(failure.reason, Reason::BlockIncomplete);
    }
}
