//! The subcommand `refresh`: makes the operator read block and config of a binding now.
//!
//! Input: flags, and a connection to the API server.
//! Output: a new value of the annotation `doppler-prefect.dev/refresh`, and the exit code once the status
//! repeats it or the time is over.
//! Invariants: it needs permission to get and patch the binding, and reads no Secret. It prints names and
//! conditions, never a value.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use jiff::Timestamp;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    args::RefreshArgs,
    crd::{BindingRef, DopplerPrefectBinding, MANAGED_BY, REFRESH_ANNOTATION},
    printable::{MAX_MESSAGE_BYTES, one_line},
    process::run::{RunError, kubernetes},
    status::READY,
};

/// Exit code if the status does not repeat the request in time.
const NOT_IN_TIME: u8 = 3;
/// Time limit of one request to the API server.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// How often the binding is read.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// Why the request cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// No configuration of the API server.
    #[error(transparent)]
    Kubernetes(#[from] RunError),
    /// The binding does not exist.
    #[error("there is no DopplerPrefectBinding {0:?}: check the name and the namespace")]
    Missing(BindingRef),
    /// The operator does not read for a suspended binding.
    #[error("DopplerPrefectBinding {0:?} is suspended: set spec.suspend to false")]
    Suspended(BindingRef),
    /// The API server refused a request.
    #[error(
        "the API server answered {code} {reason} for DopplerPrefectBinding {binding:?}: check that your account has permission to get and patch it"
    )]
    Refused {
        /// The binding.
        binding: BindingRef,
        /// The status code.
        code: u16,
        /// The reason of the API server.
        reason: String,
    },
    /// The API server did not answer.
    #[error("the API server did not answer: check your kubeconfig")]
    Unreachable,
    /// The output cannot be written.
    #[error("standard output is closed")]
    Output(#[from] io::Error),
}

/// Requests a refresh, and waits for the answer.
///
/// # Errors
/// If the binding cannot be read or patched, or is suspended.
pub async fn refresh(args: RefreshArgs) -> Result<ExitCode, RefreshError> {
    let RefreshArgs {
        name,
        namespace,
        wait,
    } = args;
    let namespace = match namespace {
        Some(namespace) => namespace,
        None => kube::Config::infer()
            .await
            .map_or_else(|_| "default".to_owned(), |config| config.default_namespace),
    };
    let resource = ApiResource::erase::<DopplerPrefectBinding>(&());
    let target = Target {
        api: Api::namespaced_with(kubernetes().await?, &namespace, &resource),
        key: BindingRef::new(&namespace, &name),
    };
    let deadline = Instant::now() + wait;
    let text = Timestamp::now().to_string();
    let mut binding = target.request(&text).await?;
    if binding.data["spec"]["suspend"] == true {
        return Err(RefreshError::Suspended(target.key));
    }
    if wait.is_zero() {
        writeln!(io::stdout(), "{:?}: refresh requested", target.key)?;
        return Ok(ExitCode::SUCCESS);
    }
    while binding.data["status"]["refreshed"] != text {
        if Instant::now() >= deadline {
            let message = late_message(&target.key, wait, &binding.data["status"]);
            writeln!(io::stderr(), "{message}")?;
            return Ok(ExitCode::from(NOT_IN_TIME));
        }
        sleep(POLL_INTERVAL).await;
        binding = target.get().await?;
    }
    writeln!(
        io::stdout(),
        "{:?}: the Secret holds the current values",
        target.key
    )?;
    Ok(ExitCode::SUCCESS)
}

/// The binding to refresh.
struct Target {
    api: Api<DynamicObject>,
    key: BindingRef,
}

impl Target {
    /// Sets the annotation.
    async fn request(&self, text: &str) -> Result<DynamicObject, RefreshError> {
        let patch = json!({"metadata": {"annotations": {REFRESH_ANNOTATION: text}}});
        let params = PatchParams {
            field_manager: Some(format!("{MANAGED_BY}-refresh")),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(&patch);
        self.answer(self.api.patch(self.key.name(), &params, &patch))
            .await
    }

    async fn get(&self) -> Result<DynamicObject, RefreshError> {
        self.answer(self.api.get(self.key.name())).await
    }

    /// The answer of the API server to a request. Its message may repeat the binding and is dropped.
    async fn answer(
        &self,
        request: impl Future<Output = kube::Result<DynamicObject>>,
    ) -> Result<DynamicObject, RefreshError> {
        match timeout(REQUEST_TIMEOUT, request).await {
            Ok(Ok(binding)) => Ok(binding),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                Err(RefreshError::Missing(self.key.clone()))
            }
            Ok(Err(kube::Error::Api(status))) => Err(RefreshError::Refused {
                binding: self.key.clone(),
                code: status.code,
                reason: one_line(&status.reason, MAX_MESSAGE_BYTES),
            }),
            Ok(Err(_)) | Err(_) => Err(RefreshError::Unreachable),
        }
    }
}

/// Why there is no answer yet, as far as the status says.
fn late_message(key: &BindingRef, wait: Duration, status: &Value) -> String {
    let conditions = status["conditions"].as_array();
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == READY);
    let why = match ready {
        Some(ready) if ready["status"] != "True" => format!(
            "Ready is {} ({}): {}",
            ready["status"].as_str().unwrap_or_default(),
            ready["reason"].as_str().unwrap_or_default(),
            ready["message"].as_str().unwrap_or_default()
        ),
        Some(_) => "Prefect or Doppler does not answer at the moment, or the operator does not run; it answers the request later".to_owned(),
        None => "the operator has not seen the binding: check that it runs and watches the namespace".to_owned(),
    };
    let message = format!("{key:?} is not refreshed after {} s: {why}", wait.as_secs());
    one_line(&message, MAX_MESSAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_names_the_condition() {
        let key = BindingRef::new("flows", "b");
        let message = |status: Value| late_message(&key, Duration::from_secs(30), &status);
        let ready = |status: &str| {
            json!({"conditions": [
                {"type": "SecretSynced", "status": "False", "reason": "Other", "message": "other"},
                {"type": READY, "status": status, "reason": "DopplerUnauthorized", "message": "check the token\n"},
            ]})
        };
        let failing = message(ready("False"));
        assert!(
            failing.starts_with("flows/b is not refreshed after 30 s"),
            "{failing}"
        );
        assert!(
            failing.contains("False (DopplerUnauthorized): check the token"),
            "{failing}"
        );
        assert!(!failing.contains('\n'));
        assert!(message(ready("True")).contains("answers the request later"));
        assert!(message(json!({})).contains("has not seen the binding"));
    }
}
