use super::*;
use proptest::prelude::*;

const SECRET: &str = "canary-canary-canary";

fn sign(secret: &[u8], body: &[u8]) -> String {
    use std::fmt::Write;
    let mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    let bytes = mac.chain_update(body).finalize().into_bytes();
    let mut text = "sha256=".to_owned();
    for byte in bytes {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

fn secrets(files: &[(&str, &str)]) -> WebhookSecrets {
    files
        .iter()
        .map(|(name, content)| WebhookSecret::new(name, content.as_bytes()).unwrap())
        .collect()
}

fn projects(names: &[&str]) -> WebhookScope {
    WebhookScope::Projects(names.iter().map(|&name| name.to_owned()).collect())
}

fn target(body: &str) -> Option<(String, String)> {
    parse_target(body.as_bytes())
}

#[test]
fn verifies_the_signature_of_rfc_4231() {
    let key = WebhookSecret::new("_all", &[0x0b; 20]).unwrap();
    let header = b"sha256=b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7";
    let webhook = WebhookSecrets(vec![key])
        .verify(header, b"Hi There")
        .unwrap();
    assert_eq!(webhook.scope, WebhookScope::All);
    assert_eq!(webhook.target, None);
}

#[test]
fn each_secret_is_valid_for_its_own_scope() {
    let other = "another-secret-of-the-same";
    let all = secrets(&[
        ("backend", SECRET),
        ("backend.new", other),
        ("_all.x", "the-secret-for-everything"),
    ]);
    for (secret, scope) in [
        (SECRET, projects(&["backend"])),
        (other, projects(&["backend"])),
        ("the-secret-for-everything", WebhookScope::All),
    ] {
        let webhook = all.verify(sign(secret.as_bytes(), b"{}").as_bytes(), b"{}");
        assert_eq!(webhook.unwrap().scope, scope);
    }
    let unknown = sign(b"a secret of no file", b"{}");
    assert_eq!(all.verify(unknown.as_bytes(), b"{}"), None);
}

#[test]
fn a_secret_shared_by_two_files_merges_their_scopes() {
    let both = secrets(&[("a", SECRET), ("b", SECRET)]);
    let webhook = both
        .verify(sign(SECRET.as_bytes(), b"").as_bytes(), b"")
        .unwrap();
    assert_eq!(webhook.scope, projects(&["a", "b"]));
    let and_all = secrets(&[("a", SECRET), ("_all", SECRET)]);
    let webhook = and_all
        .verify(sign(SECRET.as_bytes(), b"").as_bytes(), b"")
        .unwrap();
    assert_eq!(webhook.scope, WebhookScope::All);
}

#[test]
fn rejects_malformed_signatures() {
    let all = secrets(&[("_all", SECRET)]);
    let right = sign(SECRET.as_bytes(), b"{}");
    assert!(all.verify(right.as_bytes(), b"{}").is_some());
    assert!(
        all.verify(right.replace("sha256=", "").as_bytes(), b"{}")
            .is_none()
    );
    assert!(
        all.verify(right.replace("256", "1").as_bytes(), b"{}")
            .is_none()
    );
    assert!(all.verify(format!("{right}00").as_bytes(), b"{}").is_none());
    assert!(all.verify(&right.as_bytes()[..69], b"{}").is_none());
    assert!(
        all.verify(right.as_bytes(), b"{} ").is_none(),
        "the raw body counts"
    );
    assert!(all.verify(b"sha256=", b"{}").is_none());
    assert!(
        WebhookSecrets::default()
            .verify(right.as_bytes(), b"{}")
            .is_none()
    );
}

#[test]
fn a_rejected_secret_file_states_the_reason() {
    let error = |name: &str, content: &[u8]| WebhookSecret::new(name, content).unwrap_err();
    assert_eq!(error("a", b""), WebhookSecretError::TooShort);
    assert_eq!(
        error("a", b"fifteen bytes..\n"),
        WebhookSecretError::TooShort
    );
    assert_eq!(error("a", &[b'x'; 4097]), WebhookSecretError::TooLong);
    assert_eq!(
        error(".hidden", SECRET.as_bytes()),
        WebhookSecretError::NoScope
    );
    assert!(WebhookSecret::new("a", b"sixteen bytes...\r\n").is_ok());
    let many = (0..99).map(|_| WebhookSecret::new("a", SECRET.as_bytes()).unwrap());
    assert_eq!(many.collect::<WebhookSecrets>().len(), MAX_SECRETS);
}

#[test]
fn strips_the_trailing_newline_of_a_secret_file() {
    for end in ["", "\n", "\r\n"] {
        let all = secrets(&[("_all", &format!("{SECRET}{end}"))]);
        assert!(
            all.verify(sign(SECRET.as_bytes(), b"x").as_bytes(), b"x")
                .is_some()
        );
    }
}

#[test]
fn parses_the_target_of_nested_and_flat_bodies() {
    let found = Some(("backend".to_owned(), "dev".to_owned()));
    for body in [
        r#"{"type":"config.secrets.update","config":{"name":"dev","environment":"dev","project":"backend"},"project":{"id":"x","name":"Back End"},"diff":{"added":["A"]}}"#,
        r#"{"config":{"name":"dev"},"project":{"id":"7","slug":"backend","name":"Back End"}}"#,
        r#"{"config":{"name":"dev"},"project":{"id":"backend","name":"Back End"}}"#,
        r#"{"config":{"name":"dev"},"project":{"name":"backend"}}"#,
        r#"{"config":"dev","project":"backend","more":[1]}"#,
        r#"{"config":{"name":"dev"},"project":"backend"}"#,
    ] {
        assert_eq!(target(body), found, "{body}");
    }
}

#[test]
fn other_bodies_have_no_target() {
    for body in [
        "",
        "not JSON",
        "null",
        "7",
        "[]",
        r#""backend""#,
        r#"{"project":"backend"}"#,
        r#"{"config":"dev"}"#,
        r#"{"config":{"name":1},"project":{"id":{}}}"#,
        r#"{"config":"","project":"backend"}"#,
    ] {
        assert_eq!(target(body), None, "{body}");
    }
    let long = format!(r#"{{"config":"dev","project":"{}"}}"#, "x".repeat(257));
    assert_eq!(target(&long), None);
}

#[test]
fn a_webhook_affects_its_target_within_its_scope() {
    let webhook = |scope: WebhookScope, index: Option<(&str, &str)>| Webhook {
        scope,
        target: index.map(|(project, config)| (project.to_owned(), config.to_owned())),
    };
    let of_a = webhook(projects(&["a"]), None);
    assert!(of_a.affects("a", "dev") && of_a.affects("a", "prd") && !of_a.affects("b", "dev"));
    let named = webhook(projects(&["a"]), Some(("a", "dev")));
    assert!(named.affects("a", "dev") && !named.affects("a", "prd"));
    let foreign = webhook(projects(&["a"]), Some(("b", "dev")));
    assert!(!foreign.affects("a", "dev") && !foreign.affects("b", "dev"));
    let any = webhook(WebhookScope::All, Some(("b", "dev")));
    assert!(any.affects("b", "dev") && !any.affects("a", "dev"));
    assert!(webhook(WebhookScope::All, None).affects("a", "prd"));
}

#[test]
fn debug_output_omits_the_secret() {
    let all = secrets(&[("_all", SECRET)]);
    assert!(!format!("{all:?} {all:#?}").contains("canary"));
}

proptest! {
    #[test]
    fn never_accepts_a_wrong_signature(
        header in proptest::collection::vec(any::<u8>(), 0..90),
        body in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let all = secrets(&[("a", SECRET), ("_all", "another-secret-of-all")]);
        prop_assert_eq!(all.verify(&header, &body), None);
        let _ = parse_target(&body);
    }

    #[test]
    fn rejects_a_signature_or_body_with_a_flipped_bit(body in ".{1,80}", index in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let all = secrets(&[("a", SECRET)]);
        let header = sign(SECRET.as_bytes(), body.as_bytes());
        prop_assert!(all.verify(header.as_bytes(), body.as_bytes()).is_some());
        let mut other = body.clone().into_bytes();
        let position = index.index(other.len());
        other[position] ^= 1 << bit;
        prop_assert_eq!(all.verify(header.as_bytes(), &other), None);
        let mut signature = parse_signature(header.as_bytes()).unwrap();
        signature[index.index(32)] ^= 1 << bit;
        prop_assert!(!all.0[0].verifies(&signature, body.as_bytes()));
    }

    #[test]
    fn any_json_has_two_names_or_no_target(project in ".*", config in ".*") {
        let body = serde_json::json!({"project": project, "config": config}).to_string();
        let valid = [&project, &config].iter().all(|name| (1..=MAX_NAME_BYTES).contains(&name.len()));
        prop_assert_eq!(target(&body), valid.then_some((project, config)));
    }
}
