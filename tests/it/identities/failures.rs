//! Each failure on the way to a token has its reason, names what to correct, and keeps the Secret.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, api::DeleteParams};
use serde_json::json;
use testkit::doppler::IdentityRules;

use super::{Fixture, ID, LONG};
use crate::world::{World, chart::ACCOUNT, pairs, secret};

/// Waits until the binding fails with `reason`, and checks its message and its Secret.
async fn fails(f: &Fixture, reason: &str, parts: &[&str]) -> Result<()> {
    let ready = f.w.until_not_ready("b", reason).await?;
    for part in parts {
        ensure!(ready.message.contains(part), "{part}: {}", ready.message);
    }
    let kept = "the Secret keeps its last good values";
    ensure!(ready.message.ends_with(kept), "{}", ready.message);
    f.w.until_values("b", &pairs(&[("A", secret("1"))])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_account_and_a_missing_permission_are_named() -> Result<()> {
    let f = Fixture::new(World::start("identities-account").await?, LONG).await?;
    f.w.apply_binding("b", &f.spec()).await?;
    f.w.until_ready("b").await?;

    let accounts: Api<ServiceAccount> = Api::namespaced(f.w.client.clone(), &f.w.name);
    accounts.delete(ACCOUNT, &DeleteParams::default()).await?;
    f.doppler.revoke_identity_tokens();
    let field = "spec.doppler.identity.serviceAccountRef.name";
    fails(&f, "ServiceAccountMissing", &[ACCOUNT, &f.w.name, field]).await?;
    f.create_account(ACCOUNT).await?;
    f.w.until_ready("b").await?;

    // An account exists of which the operator may not request tokens.
    f.create_account("other").await?;
    let mut spec = f.spec();
    spec["doppler"]["identity"]["serviceAccountRef"]["name"] = json!("other");
    f.w.apply_binding("b", &spec).await?;
    let parts = ["other", "identities.serviceAccounts", field];
    fails(&f, "ServiceAccountTokenRefused", &parts).await?;
    f.w.apply_binding("b", &f.spec()).await?;
    f.w.until_ready("b").await?;

    // With this audience, Doppler could act as the service account at the API server.
    let mut spec = f.spec();
    spec["doppler"]["identity"]["audiences"] = json!(["https://api.doppler.com", f.issuer]);
    let before = f.exchanges();
    f.w.apply_binding("b", &spec).await?;
    let parts = ["spec.doppler.identity.audiences", f.issuer.as_str()];
    fails(&f, "InvalidSpec", &parts).await?;
    ensure!(f.exchanges() == before, "the token was sent");
    f.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_doppler_shows_what_was_sent() -> Result<()> {
    let f = Fixture::new(World::start("identities-refused").await?, LONG).await?;
    f.w.apply_binding("b", &f.spec()).await?;
    f.w.until_ready("b").await?;

    let subject = format!("system:serviceaccount:{}:{ACCOUNT}", f.w.name);
    let own = format!("dopplerPrefectBinding:{}:b", f.w.name);
    let sent = [
        ID,
        &format!("issuer {}", f.issuer),
        &format!("audience https://api.doppler.com and {own}"),
        &format!("subject {subject}"),
    ];
    let rules = f.rules(LONG);
    let others = [
        IdentityRules {
            issuer: "https://other.example".to_owned(),
            ..rules.clone()
        },
        IdentityRules {
            audiences: vec!["other".to_owned()],
            ..rules.clone()
        },
        IdentityRules {
            subject: "system:serviceaccount:other:reader".to_owned(),
            ..rules.clone()
        },
        IdentityRules {
            jwks: r#"{"keys": []}"#.to_owned(),
            ..rules.clone()
        },
    ];
    for other in others {
        f.doppler.put_identity(ID, other);
        f.doppler.revoke_identity_tokens();
        fails(&f, "IdentityRefused", &sent).await?;
        f.doppler.put_identity(ID, rules.clone());
        f.w.until_ready("b").await?;
    }

    f.doppler.remove_identity(ID);
    f.doppler.revoke_identity_tokens();
    fails(&f, "IdentityRefused", &sent).await?;
    f.doppler.put_identity(ID, rules.clone());
    f.w.until_ready("b").await?;

    f.doppler.set_identities_in_plan(false);
    f.doppler.revoke_identity_tokens();
    let parts = ["Team or Enterprise plan", "spec.doppler.accessToken"];
    fails(&f, "IdentityNotInPlan", &parts).await?;
    f.doppler.set_identities_in_plan(true);
    f.w.until_ready("b").await?;

    // The service account in Doppler loses the project.
    let other = ("other".to_owned(), "dev".to_owned());
    f.doppler.put_identity(
        ID,
        IdentityRules {
            config: Some(other),
            ..rules
        },
    );
    f.doppler.revoke_identity_tokens();
    fails(&f, "DopplerForbidden", &[ID, "service account in Doppler"]).await?;
    f.finish().await
}
