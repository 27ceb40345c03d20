//! Faults of Doppler, of the network to it, and of a proxy between.
//!
//! Input: none. Output: the cases of group Doppler.
//! Invariants: each case has its own stand-in behind its own relay, so that the operator counts each
//! as a host of its own.

mod streams;

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use testkit::doppler::{Doppler, Fault, RateLimit};

use crate::case::{Case, Group, Seen};
use crate::relay::{Mode, Relay};
use crate::stage::{Stage, after, before, ensure_kept, recovered, reported, token_ref};
use crate::world::{World, secret};

static STAGE: Stage = Stage::new();

const KEEPS: &str = "The Secret keeps its last good values, the condition names the reason, requests stay few, and the newest values arrive after the end.";
/// More requests than this in a second would be a storm.
const MAX_PER_SECOND: u64 = 8;

/// The stage of the group.
pub fn stage() -> &'static Stage {
    &STAGE
}

/// The cases.
pub fn cases() -> Vec<Case> {
    let short = [
        "401",
        "503 without Retry-After",
        "an empty object",
        "connection refused",
        "half a JSON object",
    ];
    let mut cases: Vec<Case> = table()
        .into_iter()
        .enumerate()
        .map(|(number, (name, broken, reasons))| {
            let binding = format!("d{number}");
            let case = Case::new(Group::Doppler, name, KEEPS, move || {
                keeps_last_good(binding, broken, reasons)
            });
            if short.contains(&name) {
                case.in_short_form()
            } else {
                case
            }
        })
        .collect();
    cases.extend(streams::cases());
    cases.push(Case::new(
        Group::Doppler,
        "all names but one gone",
        "The Secret keeps its values until the answer came twice; then it has what Doppler has.",
        most_names_gone,
    ));
    cases.push(Case::new(
        Group::Doppler,
        "a rate limit of 5 requests a minute",
        "The operator keeps to the limit once an answer has named it: at most one request of each kind is refused.",
        rate_limit,
    ));
    cases
}

/// A fault, how Doppler is broken, and the reasons that may be reported.
type Row = (&'static str, Break, &'static [&'static str]);

/// The faults after which the Secret keeps its last good values.
#[allow(clippy::too_many_lines)] // a table
fn table() -> Vec<Row> {
    let json = "content-type: application/json; charset=utf-8\r\n";
    // Conditions quote Doppler's sentence about a request that it refuses, and no other answer.
    let error = |status: u16| {
        let sentence = "a sentence of the server";
        let text = if status < 500 {
            sentence.to_owned()
        } else {
            secret(sentence)
        };
        Break::Fault(Fault::Error(status, text))
    };
    let answer = |status: &str, headers: &str, body: &str| {
        Break::Relay(Mode::response(status, headers, body))
    };
    let ok = |body: &str| answer("200 OK", json, body);
    vec![
        (
            "400",
            error(400),
            &["DopplerForbidden", "ConfigMissing", "DopplerError"],
        ),
        ("401", error(401), &["DopplerUnauthorized"]),
        ("403", error(403), &["DopplerForbidden"]),
        ("404", error(404), &["ConfigMissing"]),
        ("409", error(409), &["DopplerError"]),
        ("418", error(418), &["DopplerError"]),
        (
            "429 without Retry-After",
            answer("429 Too Many Requests", json, "{}"),
            &["DopplerRateLimited"],
        ),
        (
            "429 with Retry-After: 3",
            answer("429 Too Many Requests", "retry-after: 3\r\n", ""),
            &["DopplerRateLimited"],
        ),
        ("500", error(500), &["DopplerUnreachable"]),
        (
            "502 with a page of HTML",
            answer(
                "502 Bad Gateway",
                "content-type: text/html\r\n",
                "<html>bad gateway</html>",
            ),
            &["DopplerUnreachable"],
        ),
        (
            "503 without Retry-After",
            error(503),
            &["DopplerUnreachable"],
        ),
        (
            "503 with Retry-After: 2",
            answer("503 Service Unavailable", "retry-after: 2\r\n", ""),
            &["DopplerUnreachable"],
        ),
        ("504", error(504), &["DopplerUnreachable"]),
        (
            "a page of HTML with status 200",
            Break::Fault(Fault::not_json()),
            &["DopplerError"],
        ),
        (
            "slow first byte",
            Break::Fault(Fault::Delay(Duration::from_secs(5))),
            &["DopplerUnreachable"],
        ),
        (
            "no answer to a request",
            Break::Fault(Fault::Hang),
            &["DopplerUnreachable"],
        ),
        (
            "a body that stalls",
            Break::Relay(Mode::Stall(head(json, 1000, b"{\"A\":"))),
            &["DopplerUnreachable"],
        ),
        (
            "a body of one byte every 100 ms",
            Break::Relay(Mode::Trickle(
                head(json, 500, &[b' '; 500]),
                Duration::from_millis(100),
            )),
            &["DopplerUnreachable"],
        ),
        (
            "a body that ends early",
            Break::Fault(Fault::Truncate(9)),
            &["DopplerUnreachable"],
        ),
        (
            "gzip that ends early",
            Break::Relay(Mode::Answer(truncated_gzip())),
            &["DopplerUnreachable", "DopplerError"],
        ),
        ("a JSON list", ok("[1, 2]"), &["DopplerError"]),
        ("half a JSON object", ok("{\"A\": \"1\""), &["DopplerError"]),
        (
            "nested values",
            ok("{\"A\": {\"nested\": \"1\"}, \"DOPPLER_PROJECT\": \"p\"}"),
            &["DopplerError"],
        ),
        (
            "null for one key",
            ok("{\"A\": null, \"DOPPLER_PROJECT\": \"p\"}"),
            &["DopplerError"],
        ),
        (
            "a number for one key",
            ok("{\"A\": 1, \"DOPPLER_PROJECT\": \"p\"}"),
            &["DopplerError"],
        ),
        (
            "an empty object",
            Break::Fault(Fault::empty_object()),
            &["ConfigIncomplete"],
        ),
        (
            "an answer of 20 MiB",
            Break::Fault(Fault::Huge(20 << 20)),
            &["AnswerTooLarge"],
        ),
        (
            "a redirect",
            Break::Fault(Fault::Redirect("http://127.0.0.1:1/".to_owned())),
            &["DopplerError"],
        ),
        (
            "headers without end",
            Break::Relay(Mode::Stall(long_header())),
            &["AnswerTooLarge"],
        ),
        (
            "connection refused",
            Break::Relay(Mode::Refuse),
            &["DopplerUnreachable"],
        ),
        (
            "connection reset",
            Break::Relay(Mode::Reset),
            &["DopplerUnreachable"],
        ),
        (
            "connection accepted and silent",
            Break::Relay(Mode::Silent),
            &["DopplerUnreachable"],
        ),
        (
            "connection closed without an answer",
            Break::Fault(Fault::Close),
            &["DopplerUnreachable"],
        ),
        (
            "garbage in place of HTTP",
            Break::Relay(Mode::Answer(b"\x16\x03\x01\x00\x02hello\r\n\r\n".to_vec())),
            &["DopplerUnreachable", "DopplerError"],
        ),
        ("token revoked", Break::Revoke, &["DopplerUnauthorized"]),
        ("config deleted", Break::DeleteConfig, &["ConfigMissing"]),
    ]
}

/// How Doppler is broken.
#[derive(Clone)]
enum Break {
    Fault(Fault),
    Relay(Mode),
    Revoke,
    DeleteConfig,
}

/// A binding with its own stand-in.
struct Place {
    world: &'static World,
    binding: String,
    doppler: Doppler,
    relay: Relay,
    token: String,
}

impl Place {
    async fn start(binding: String) -> Result<Self> {
        Self::with_interval(binding, None).await
    }

    /// Like [`Self::start`], with this `refreshInterval`.
    async fn with_interval(binding: String, interval: Option<&str>) -> Result<Self> {
        let world = STAGE.world("faults-doppler").await?;
        let doppler = Doppler::start()?;
        let relay = Relay::start(doppler.http_addr()).await?;
        doppler.replace("p", "dev", before());
        let token = format!("dp.st.dev.{}", secret(&binding));
        doppler.add_service_token(&token, "p", "dev");
        world.put_token(&format!("{binding}-token"), &token).await?;
        let mut spec = json!({"doppler": {
            "host": relay.url(), "project": "p", "config": "dev",
            "accessToken": token_ref(&format!("{binding}-token")),
        }});
        if let Some(interval) = interval {
            spec["refreshInterval"] = json!(interval);
        }
        world.apply_binding(&binding, &spec).await?;
        world.until_ready(&binding).await?;
        world.until_values(&binding, &before()).await?;
        Ok(Self {
            world,
            binding,
            doppler,
            relay,
            token,
        })
    }

    /// The requests and connections since the start.
    fn traffic(&self) -> u64 {
        self.doppler.counts().requests.max(self.relay.connections())
    }
}

async fn keeps_last_good(binding: String, broken: Break, reasons: &[&str]) -> Result<Seen> {
    let place = Place::start(binding).await?;
    let (world, binding) = (place.world, place.binding.as_str());
    let (start, before_fault) = (Instant::now(), place.traffic());
    let deleted = matches!(broken, Break::DeleteConfig);
    match broken {
        Break::Fault(fault) => drop(place.doppler.fault(|_| true, fault)),
        Break::Relay(mode) => place.relay.set(mode),
        Break::Revoke => place.doppler.revoke(&place.token),
        Break::DeleteConfig => place.doppler.remove_config("p", "dev"),
    }
    if !deleted {
        // An unchanged config is a 304, which has no body.
        place.doppler.replace("p", "dev", after());
    }
    let reason = reported(world, binding, reasons).await?;
    ensure_kept(world, binding).await?;
    let lasted = start.elapsed();
    let requests = place.traffic() - before_fault;
    let most = MAX_PER_SECOND * (lasted.as_secs() + 2);
    ensure!(requests <= most, "{requests} requests in {lasted:?}");
    let mended = Instant::now();
    place.doppler.clear_faults();
    place.relay.set(Mode::Forward);
    place.doppler.add_service_token(&place.token, "p", "dev");
    if deleted {
        place.doppler.replace("p", "dev", after());
    }
    let recovery = recovered(world, binding, &after(), mended).await?;
    Ok(Seen {
        what: reason,
        requests: Some(requests),
        lasted: Some(lasted),
        recovery: Some(recovery),
    })
}

/// The head of a response with a body of this length, and the beginning of the body.
fn head(headers: &str, length: usize, body: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("HTTP/1.1 200 OK\r\n{headers}content-length: {length}\r\n\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A response whose gzip stream ends in the middle.
fn truncated_gzip() -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let text = format!("{{\"A\": \"{}\"}}", "0123456789abcdef".repeat(64));
    encoder
        .write_all(text.as_bytes())
        .expect("memory is writable");
    let packed = encoder.finish().expect("memory is writable");
    let part = &packed[..packed.len() / 2];
    let headers =
        "content-type: application/json\r\ncontent-encoding: gzip\r\nconnection: close\r\n";
    head(headers, part.len(), part)
}

/// A response whose head never ends: 1 MiB of headers so far.
fn long_header() -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 200 OK\r\n".to_vec();
    for number in 0..16_384 {
        bytes.extend_from_slice(format!("x-{number:06}: {}\r\n", "a".repeat(52)).as_bytes());
    }
    bytes
}

async fn most_names_gone() -> Result<Seen> {
    let place = Place::with_interval("names-gone".to_owned(), Some("10s")).await?;
    let world = place.world;
    let start = Instant::now();
    let one = [("A".to_owned(), secret("after"))].into();
    place.doppler.replace("p", "dev", [("A", secret("after"))]);
    let condition = world
        .until_condition("names-gone", "SecretSynced", "False", "NamesLost")
        .await;
    let condition = condition.context("the first answer was taken at once")?;
    let recovery = recovered(world, "names-gone", &one, start).await?;
    Ok(Seen {
        what: format!("{} at the first answer", condition.reason),
        requests: Some(place.traffic()),
        lasted: None,
        recovery: Some(recovery),
    })
}

async fn rate_limit() -> Result<Seen> {
    let place = Place::start("rate-limit".to_owned()).await?;
    let world = place.world;
    let refused_before = place.doppler.counts().status(429);
    place.doppler.set_rate_limit(RateLimit {
        secret_reads: 5,
        reads: 5,
        window: Duration::from_secs(10),
    });
    let start = Instant::now();
    for round in 0..20 {
        place
            .doppler
            .set("p", "dev", "A", &secret(&format!("round {round}")));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    place.doppler.replace("p", "dev", after());
    let recovery = recovered(world, "rate-limit", &after(), Instant::now()).await?;
    let refused = place.doppler.counts().status(429) - refused_before;
    // Downloads and watch streams are counted apart.
    ensure!(refused <= 2, "{refused} answers 429");
    Ok(Seen {
        what: format!("{refused} answers 429"),
        requests: Some(place.traffic()),
        lasted: Some(start.elapsed()),
        recovery: Some(recovery),
    })
}
