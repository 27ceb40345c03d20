//! What keeps identities apart: namespaces, and the audience of a binding; and whose credential an
//! identity is.

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::doppler::IdentityRules;
use testkit::prefect::Block;

use super::{Fixture, ID, LONG};
use crate::world::{Setup, World, chart::ACCOUNT, pairs, secret};

#[tokio::test(flavor = "multi_thread")]
async fn no_binding_uses_the_identity_of_another_namespace() -> Result<()> {
    let other = World::without_operator("identities-theirs", Setup::default()).await?;
    let setup = Setup {
        neighbour: Some(other.name.clone()),
        ..Setup::default()
    };
    let f = Fixture::new(World::with("identities-ours", setup).await?, LONG).await?;
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT}});
    other.apply(&account.to_string()).await?;
    f.w.apply_binding("b", &f.spec()).await?;
    f.w.until_ready("b").await?;
    // The same spec in another namespace, whose account has the same name.
    other.apply_binding("b", &f.spec()).await?;
    let ready = other.until_not_ready("b", "IdentityRefused").await?;
    let subject = format!("system:serviceaccount:{}:{ACCOUNT}", other.name);
    ensure!(ready.message.contains(&subject), "{}", ready.message);
    ensure!(other.values("b").await.is_err(), "it has the values");
    other.finish().await?;
    f.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_can_be_limited_to_one_binding() -> Result<()> {
    let f = Fixture::new(World::start("identities-audience").await?, LONG).await?;
    let audience = format!("dopplerPrefectBinding:{}:mine", f.w.name);
    let rules = IdentityRules {
        audiences: vec![audience],
        ..f.rules(LONG)
    };
    f.doppler.put_identity(ID, rules);
    f.w.apply_binding("mine", &f.spec()).await?;
    f.w.until_ready("mine").await?;
    // A second binding neither gets a token of its own nor the one of the first.
    f.w.apply_binding("other", &f.spec()).await?;
    f.w.until_not_ready("other", "IdentityRefused").await?;
    ensure!(f.w.values("other").await.is_err(), "it has the values");
    f.w.until_ready("mine").await?;
    f.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_holds_the_id_and_the_binding_the_account() -> Result<()> {
    let setup = Setup::default().args(&["--block-overrides", "deny"]);
    let f = Fixture::new(World::with("identities-block", setup).await?, LONG).await?;
    let name = f.w.name.clone();
    f.doppler.set(&name, "prd", "A", &secret("prd"));
    let block = json!({"project": name, "config": "dev", "identity": ID});
    f.w.api.put_block(&name, &Block::Secret(block)).await?;
    let mut spec = f.w.spec();
    spec["doppler"] = json!({"host": f.doppler.url()});
    f.w.apply_binding("b", &spec).await?;
    let ready = f.w.until_not_ready("b", "BlockIncomplete").await?;
    let field = "spec.doppler.identity.serviceAccountRef";
    ensure!(ready.message.contains(field), "{}", ready.message);

    spec["doppler"]["identity"] = json!({"serviceAccountRef": {"name": ACCOUNT}});
    f.w.apply_binding("b", &spec).await?;
    f.w.until_values("b", &pairs(&[("A", secret("1"))])).await?;
    // With an identity, the binding has a credential of its own.
    spec["doppler"]["config"] = json!("prd");
    f.w.apply_binding("b", &spec).await?;
    f.w.until_values("b", &pairs(&[("A", secret("prd"))]))
        .await?;
    f.finish().await
}
