//! Neither the token of the service account nor that of Doppler is ever shown.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::doppler::{Fault, RecordedRequest};

use super::{Fixture, LONG};
use crate::world::{Setup, World, secret};

#[tokio::test(flavor = "multi_thread")]
async fn no_error_path_shows_a_token_of_an_identity() -> Result<()> {
    let setup = Setup::default().args(&["--stale-after", "2s"]);
    let f = Fixture::new(World::with("identities-canary", setup).await?, LONG).await?;
    f.w.apply_binding("b", &f.spec()).await?;
    f.w.until_ready("b").await?;
    let seen = f.doppler.seen_identity_tokens();
    ensure!(seen.len() == 2, "a token of the account and one of Doppler");

    // Doppler quotes both tokens in its errors, or gives something that is no token.
    let echo = json!({"messages": [format!("Invalid token {}", seen.join(" "))], "success": false});
    let answer = |status: u16, body: &str| {
        Fault::Answer(
            status,
            "application/json".to_owned(),
            body.as_bytes().to_vec(),
        )
    };
    let broken = secret("broken\n");
    let broken = json!({"token": broken, "expires_at": "2100-01-01T00:00:00Z"});
    let edges = [
        (answer(401, &echo.to_string()), "IdentityRefused"),
        (answer(403, &echo.to_string()), "IdentityRefused"),
        (answer(200, &broken.to_string()), "DopplerError"),
        (
            answer(200, &format!("{{\"token\": \"{}", secret("cut"))),
            "DopplerError",
        ),
        (
            Fault::Redirect(format!("http://127.0.0.1:9/?token={}", seen[1])),
            "DopplerError",
        ),
        (answer(500, &echo.to_string()), "DopplerUnreachable"),
    ];
    for (fault, reason) in edges {
        let fault = f.doppler.fault(RecordedRequest::is_exchange, fault);
        f.doppler.revoke_identity_tokens();
        f.w.until_not_ready("b", reason)
            .await
            .with_context(|| f.w.log_tail())?;
        f.doppler.remove_fault(fault);
        f.w.until_ready("b").await?;
    }

    // A download and a stream whose token Doppler quotes, and a revocation that fails.
    let tokens = f.doppler.seen_identity_tokens();
    let echo = json!({"messages": [format!("denied {}", tokens.join(" "))], "success": false});
    let download = f.doppler.fault(
        |request| request.is_download() || request.is_watch(),
        answer(403, &echo.to_string()),
    );
    f.doppler.close_streams();
    f.w.until_not_ready("b", "DopplerForbidden").await?;
    f.doppler.remove_fault(download);
    f.w.until_ready("b").await?;
    f.doppler.fault_times(
        2,
        RecordedRequest::is_revocation,
        answer(500, &echo.to_string()),
    );
    f.w.delete_binding("b").await?;
    f.w.until_binding_deleted("b").await?;
    f.w.until("the revocation", async || {
        let valid = f.doppler.valid_identity_tokens();
        ensure!(valid == 0, "{valid} are valid");
        Ok(())
    })
    .await?;

    // The search can find something: the log is at trace level, and has these requests.
    let log = f.w.log();
    ensure!(
        log.contains(r#""level":"TRACE""#)
            && log.contains("IdentityRefused")
            && log.contains("revoked a token of Doppler"),
        "no log at trace level to search"
    );
    // The operator sent no token to a server that logs it.
    let tokens = f.doppler.seen_identity_tokens();
    let path = f.w.plane.folder().join("kube-apiserver.log");
    let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
    crate::world::canary::ensure_no_token("kube-apiserver.log", &text, &tokens)?;
    f.finish().await
}
