use super::*;
use std::collections::HashSet;

fn key() -> ConfigKey {
    ConfigKey {
        host: Url::parse("https://api.doppler.com").unwrap(),
        credential: "canary".into(),
        project: "p".to_owned(),
        config: "dev".to_owned(),
        transformer: None,
    }
}

/// Keys that each differ from the first in one part. The last one differs in the transformer.
fn variants() -> [ConfigKey; 6] {
    [
        key(),
        ConfigKey {
            host: Url::parse("https://other.example").unwrap(),
            ..key()
        },
        ConfigKey {
            credential: "other".into(),
            ..key()
        },
        ConfigKey {
            project: "q".to_owned(),
            ..key()
        },
        ConfigKey {
            config: "prd".to_owned(),
            ..key()
        },
        ConfigKey {
            transformer: Some(NameTransformer::Camel),
            ..key()
        },
    ]
}

#[allow(
    clippy::mutable_key_type,
    reason = "the current token of an identity is no part of the key"
)]
#[test]
fn keys_that_differ_in_any_part_are_unequal() {
    let variants = variants();
    let distinct: HashSet<_> = variants.iter().cloned().chain(variants.clone()).collect();
    assert_eq!(distinct.len(), variants.len());
}

#[allow(
    clippy::mutable_key_type,
    reason = "the current token of an identity is no part of the key"
)]
#[test]
fn keys_share_a_stream_across_transformers_only() {
    let streams = variants().map(|key| key.stream_key());
    let distinct: HashSet<_> = streams.iter().cloned().collect();
    assert_eq!(distinct.len(), streams.len() - 1);
    assert_eq!(streams[5], streams[0]);
}

#[test]
fn debug_output_omits_the_token() {
    assert!(!format!("{:?} {:#?}", key(), key()).contains("canary"));
}
