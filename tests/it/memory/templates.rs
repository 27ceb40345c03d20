//! Templates of files that take as much as they can.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::MAX_GROWTH_KIB;
use crate::world::{Setup, World, pairs, secret};

/// The longest template.
const TEMPLATE_BYTES: usize = 16 * 1024;

/// Templates that grow in memory, in output, in time, or in depth.
fn hostile() -> Vec<String> {
    let deep = |part: &str, after: &str| {
        let room = TEMPLATE_BYTES - after.len() - 3;
        format!("{{{{ {}{after}", part.repeat(room / part.len()))
    };
    vec![
        "{{ 'x' * 1000000000 }}".to_owned(),
        "{{ A|replace('', A)|replace('', A) }}".to_owned(),
        "{% for i in range(99999) %}{% for j in range(99999) %}{{ A }}{% endfor %}{% endfor %}"
            .to_owned(),
        "{{ [A]|list * 100000000 }}".to_owned(),
        "{{ range(99999)|list|tojson|indent(99999) }}".to_owned(),
        deep("-", "1 }}"),
        deep("not ", "A }}"),
        deep("A~", "A }}"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn peak_stays_low_while_templates_take_all_they_can() -> Result<()> {
    let w = World::with("memory-files", Setup::default()).await?;
    let large = format!("{}{}", secret("large"), "x".repeat(50_000));
    w.set_doppler_secret("A", &large);
    w.apply_binding("plain", &w.spec()).await?;
    w.until_ready("plain").await?;
    let before = w.operator()?.peak_kib()?;
    let templates = hostile();
    for (at, template) in templates.iter().enumerate() {
        let mut spec = w.spec();
        spec["managedSecret"] = json!({"files": {"a": {"template": template}}});
        w.apply_binding(&format!("hostile-{at}"), &spec).await?;
    }
    for (at, template) in templates.iter().enumerate() {
        // Whether a deep one is refused does not matter, but it must not stop the others.
        let name = format!("hostile-{at}");
        let done = w.until("an answer to the template", async || {
            let reason = w.condition(&name, "SecretSynced").await?.reason;
            let is_answer = ["TemplateInvalid", "Synced"].contains(&reason.as_str());
            ensure!(is_answer, "{reason}");
            Ok(())
        });
        done.await
            .with_context(|| template[..40.min(template.len())].to_owned())?;
    }
    // The operator goes on.
    w.set_doppler_secret("B", &secret("b"));
    w.until_values("plain", &pairs(&[("A", large), ("B", secret("b"))]))
        .await?;
    let peak = w.operator()?.peak_kib()?;
    let growth = peak.saturating_sub(before);
    ensure!(
        growth <= MAX_GROWTH_KIB,
        "the peak is {peak} KiB, {growth} KiB above {before} KiB"
    );
    w.finish().await
}
