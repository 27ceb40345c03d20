//! Authors of one namespace beside a tenant of another one, on one operator.
//!
//! Input: none. Output: the cases.
//! Invariants: an author changes objects of the attacker's namespace only. What must hold is seen at
//! the tenant's. Each case has its own operator.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kube::api::ListParams;
use serde_json::{Value, json};
use testkit::doppler::{Doppler, Fault};
use testkit::folder::ScratchDir;
use testkit::prefect::Block;
use wiremock::matchers::{header, path_regex};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::case::{Case, Group, Playing, Seen};
use crate::stage::{after, before, recovered, token_ref, wrapped};
use crate::world::{Setup, World, secret};

const STREAM: &str = "The other namespace gets its share: its change arrives by notification.";

/// The cases.
pub fn cases() -> Vec<Case> {
    let new = |fault: &str, must_hold, play: fn() -> Playing| {
        Case::new(Group::Tenants, fault, must_hold, play)
    };
    vec![
        new(
            "a flipping block beside another namespace",
            "Writes stay few, and changes of the other namespace arrive meanwhile.",
            || Box::pin(flipping_block()),
        ),
        new(
            "60 invalid API keys for an account of Prefect Cloud",
            "The other namespace's key of this account keeps its polls.",
            || Box::pin(junk_keys()),
        ),
        new("a namespace that fills all watch streams", STREAM, || {
            Box::pin(many_streams())
        }),
        new("a namespace that fills all event sockets", STREAM, || {
            Box::pin(many_sockets())
        }),
        new(
            "100 tokens whose plan has no watch streams",
            "Few streams are tried, and the other namespace has its own at the same host.",
            || Box::pin(refused_streams()),
        ),
        new(
            "500 bindings that change at once, beside another namespace",
            "A change of the other namespace does not wait for the queue of the first.",
            || Box::pin(long_queue()),
        ),
    ]
}

/// Two namespaces and the operator of both.
struct Neighbours {
    /// Has the operator.
    attacker: World,
    victim: World,
}

impl Neighbours {
    async fn start(name: &str, mut setup: Setup) -> Result<Self> {
        let other = format!("{name}-other");
        let victim = World::without_operator(&other, Setup::default()).await?;
        victim.doppler.replace(&other, "dev", before());
        setup.neighbour = Some(other);
        let attacker = World::with(name, setup).await?;
        attacker.doppler.replace(name, "dev", before());
        Ok(Self { attacker, victim })
    }

    /// Lets the attacker read every config of its own project.
    fn account_token(&self) -> String {
        let token = format!("dp.sa.{}", secret(&self.attacker.name));
        self.attacker.doppler.add_account_token(&token);
        token
    }

    async fn finish(self) -> Result<()> {
        self.attacker.finish().await?;
        self.victim.finish().await
    }

    async fn seen(self, what: String, start: Instant, recovery: Duration) -> Result<Seen> {
        let lasted = start.elapsed();
        self.finish().await?;
        Ok(Seen {
            what,
            requests: None,
            lasted: Some(lasted),
            recovery: Some(recovery),
        })
    }
}

/// The spec of a binding without Prefect, whose token is in this Secret.
fn direct(doppler: &Doppler, project: &str, config: &str, token: &str) -> Value {
    json!({"doppler": {
        "host": doppler.url(), "project": project, "config": config, "accessToken": token_ref(token),
    }})
}

async fn flipping_block() -> Result<Seen> {
    const CHANGES: usize = 200;
    const ROUNDS: usize = 5;
    let both = Neighbours::start("tenants-flips-beside", Setup::default()).await?;
    let Neighbours { attacker, victim } = &both;
    let token = both.account_token();
    attacker.doppler.replace(&attacker.name, "stg", after());
    attacker.apply_binding("attacker", &attacker.spec()).await?;
    attacker.until_ready("attacker").await?;
    victim.apply_binding("victim", &victim.spec()).await?;
    victim.until_ready("victim").await?;
    let (start, writes) = (Instant::now(), attacker.writes(None).await?);
    let mut slowest = Duration::ZERO;
    for change in 0..CHANGES {
        let config = if change % 2 == 0 { "stg" } else { "dev" };
        let block = Block::object(&attacker.name, config, &token);
        attacker.api.put_block(&attacker.name, &block).await?;
        if change % (CHANGES / ROUNDS) == 0 {
            let mut values = before();
            values.insert("A".to_owned(), secret(&format!("change {change}")));
            let changed = Instant::now();
            victim.doppler.replace(&victim.name, "dev", values.clone());
            slowest = slowest.max(recovered(victim, "victim", &values, changed).await?);
        }
    }
    let written = attacker.writes(None).await? - writes;
    // A burst of 30 writes of each kind, and then one every two seconds, and those of the victim.
    let most = 140 + 2 * start.elapsed().as_secs();
    ensure!(written <= most, "{written} writes in {:?}", start.elapsed());
    ensure!(
        slowest < Duration::from_secs(10),
        "the slowest change took {slowest:?}"
    );
    let what = format!(
        "{written} writes after {CHANGES} changes; the slowest of {ROUNDS} changes of the other namespace took {:.1} s",
        slowest.as_secs_f64()
    );
    both.seen(what, start, slowest).await
}

async fn junk_keys() -> Result<Seen> {
    const KEYS: usize = 60;
    const WINDOW: Duration = Duration::from_secs(20);
    let setup = Setup::default().args(&["--prefect-account-budget", "60"]);
    let both = Neighbours::start("tenants-cloud", setup).await?;
    let Neighbours { attacker, victim } = &both;
    let server = MockServer::start().await;
    let key = secret("accepted-key");
    let value = json!({"project": victim.name, "config": "dev", "access_token": victim.token});
    let document = ResponseTemplate::new(200).set_body_json(json!({"data": {"value": value}}));
    Mock::given(path_regex("/block_documents/name/"))
        .and(header("authorization", format!("Bearer {key}").as_str()))
        .respond_with(document)
        .with_priority(1)
        .mount(&server)
        .await;
    Mock::given(path_regex("/block_documents/name/"))
        .respond_with(ResponseTemplate::new(401))
        .mount(&server)
        .await;
    let account = "/api/accounts/0a1b/workspaces/2c3d";
    let spec = |world: &World, block: &str, key: &str| {
        let mut spec = world.spec();
        spec["prefect"] = json!({
            "server": {"remoteApiUrl": format!("{}{account}", server.uri()), "apiKey": token_ref(key)},
            "block": {"name": block},
        });
        spec
    };
    victim.put_token("key", &key).await?;
    victim
        .apply_binding("victim", &spec(victim, "victim", "key"))
        .await?;
    victim.until_ready("victim").await?;
    let reads = async |block: &str| -> Result<usize> {
        let requests = server.received_requests().await.unwrap_or_default();
        let of = requests.iter().filter(|one| one.url.path().contains(block));
        Ok(of.count())
    };
    for number in 0..KEYS {
        let name = format!("junk-{number}");
        let key = format!("{name}-key");
        attacker.put_token(&key, &secret(&key)).await?;
        attacker
            .apply_binding(&name, &spec(attacker, &name, &key))
            .await?;
    }
    let start = Instant::now();
    attacker
        .until_not_ready("junk-0", "PrefectUnauthorized")
        .await?;
    let (begun, polls) = (Instant::now(), reads("/name/victim").await?);
    // One poll a second, and half of them would be few.
    let needed = usize::try_from(WINDOW.as_secs() / 2)?;
    attacker
        .until_within(WINDOW, "the polls of the other namespace", async || {
            let more = reads("/name/victim").await? - polls;
            ensure!(more >= needed, "{more} polls");
            Ok(())
        })
        .await?;
    let taken = begun.elapsed();
    let junk = reads("/name/junk").await?;
    let changed = Instant::now();
    victim.doppler.replace(&victim.name, "dev", after());
    let recovery = recovered(victim, "victim", &after(), changed).await?;
    let what = format!(
        "{needed} polls of the other namespace in {:.1} s, {junk} requests with invalid keys",
        taken.as_secs_f64()
    );
    both.seen(what, start, recovery).await
}

/// Checks that a change arrives although nothing is polled.
async fn notified(victim: &World, change: impl AsyncFn(bool) -> Result<()>) -> Result<Duration> {
    let mut slowest = Duration::ZERO;
    // The read that follows the opening of a stream may see the first change.
    for is_after in [true, false] {
        let changed = Instant::now();
        change(is_after).await?;
        let values = if is_after { after() } else { before() };
        slowest = slowest.max(recovered(victim, "victim", &values, changed).await?);
    }
    Ok(slowest)
}

/// Waits until so many streams of this upstream are open.
async fn until_connected(world: &World, upstream: &str, count: usize) -> Result<()> {
    let sample =
        format!("doppler_prefect_subscriptions_connected{{upstream=\"{upstream}\"}} {count}\n");
    world
        .until(&format!("{count} streams of {upstream}"), async || {
            let metrics = world.operator()?.metrics().await?;
            ensure!(metrics.contains(&sample), "not yet");
            Ok(())
        })
        .await
}

async fn many_streams() -> Result<Seen> {
    const STREAMS: usize = 8;
    let setup = Setup::without_polls().args(&["--max-streams", "8"]);
    let both = Neighbours::start("tenants-streams", setup).await?;
    let Neighbours { attacker, victim } = &both;
    attacker.put_token("all", &both.account_token()).await?;
    for number in 0..3 * STREAMS {
        let config = format!("dev_{number}");
        attacker.doppler.replace(&attacker.name, &config, before());
        let spec = direct(attacker.doppler, &attacker.name, &config, "all");
        attacker.apply_binding(&format!("b{number}"), &spec).await?;
    }
    until_connected(attacker, "doppler", STREAMS).await?;
    let start = Instant::now();
    victim
        .apply_binding("victim", &victim.direct_spec().await?)
        .await?;
    victim.until_ready("victim").await?;
    victim
        .until("the stream of the other namespace", async || {
            let open = victim.doppler.open_streams_of(&victim.name, "dev");
            ensure!(open == 1, "{open} streams");
            Ok(())
        })
        .await?;
    let slowest = notified(victim, async |is_after| {
        let values = if is_after { after() } else { before() };
        victim.doppler.replace(&victim.name, "dev", values);
        Ok(())
    })
    .await?;
    let what = format!("one of {STREAMS} streams is the other namespace's");
    both.seen(what, start, slowest).await
}

async fn many_sockets() -> Result<Seen> {
    // A quarter of the files that the process may open.
    const SOCKETS: usize = 16;
    let folder = ScratchDir::new("tenants-sockets")?;
    let setup = Setup {
        binary: Some(wrapped(folder.path(), "ulimit -n 64")?),
        ..Setup::without_polls()
    };
    let both = Neighbours::start("tenants-sockets", setup).await?;
    let Neighbours { attacker, victim } = &both;
    for number in 0..2 * SOCKETS {
        let name = format!("b{number}");
        // A server without authentication accepts every key, and each has its own socket.
        let key = format!("{name}-key");
        attacker.put_token(&key, &secret(&key)).await?;
        let mut spec = attacker.spec();
        spec["prefect"]["server"]["apiKey"] = token_ref(&key);
        attacker.apply_binding(&name, &spec).await?;
    }
    until_connected(attacker, "prefect", SOCKETS).await?;
    let start = Instant::now();
    let token = format!("dp.sa.{}", secret("sockets"));
    victim.doppler.add_account_token(&token);
    victim.doppler.replace(&victim.name, "stg", after());
    victim.put_token("key", &secret("victim-key")).await?;
    let mut spec = victim.spec();
    spec["prefect"]["server"]["apiKey"] = token_ref("key");
    victim.apply_binding("victim", &spec).await?;
    victim.until_ready("victim").await?;
    let slowest = notified(victim, async |is_after| {
        let config = if is_after { "stg" } else { "dev" };
        let block = Block::object(&victim.name, config, &token);
        victim.api.put_block(&victim.name, &block).await?;
        Ok(())
    })
    .await?;
    let what = format!("one of {SOCKETS} sockets is the other namespace's");
    both.seen(what, start, slowest).await
}

async fn refused_streams() -> Result<Seen> {
    const TOKENS: usize = 100;
    let both = Neighbours::start("tenants-plan", Setup::default()).await?;
    let Neighbours { attacker, victim } = &both;
    let doppler = Doppler::start()?;
    let tried = attacker.name.clone();
    doppler.fault(
        move |request| request.is_watch() && !request.is_for("victim", "dev"),
        Fault::Error(403, "Upgrade your plan to watch secrets".to_owned()),
    );
    let start = Instant::now();
    for number in 0..TOKENS {
        let (name, config) = (format!("b{number}"), format!("dev_{number}"));
        doppler.replace(&tried, &config, before());
        let token = format!("dp.st.{config}.{}", secret("plan"));
        doppler.add_service_token(&token, &tried, &config);
        let key = format!("{name}-token");
        attacker.put_token(&key, &token).await?;
        let spec = direct(&doppler, &tried, &config, &key);
        attacker.apply_binding(&name, &spec).await?;
    }
    for number in 0..TOKENS {
        attacker.until_ready(&format!("b{number}")).await?;
    }
    doppler.replace("victim", "dev", before());
    let token = format!("dp.st.dev.{}", secret("plan"));
    doppler.add_service_token(&token, "victim", "dev");
    victim.put_token("token", &token).await?;
    victim
        .apply_binding("victim", &direct(&doppler, "victim", "dev", "token"))
        .await?;
    victim.until_ready("victim").await?;
    victim
        .until("the stream of the other namespace", async || {
            let open = doppler.open_streams_of("victim", "dev");
            ensure!(open == 1, "{open} streams");
            Ok(())
        })
        .await?;
    let refused = doppler.counts().status(403);
    // Five at once, and then one in ten seconds; a few are under way at the fifth answer.
    let most = 5 + 8 + start.elapsed().as_secs() / 10;
    ensure!(
        refused <= most,
        "{refused} refused streams in {:?}",
        start.elapsed()
    );
    let changed = Instant::now();
    doppler.replace("victim", "dev", after());
    let recovery = recovered(victim, "victim", &after(), changed).await?;
    let what = format!("{refused} streams of {TOKENS} tokens were tried");
    both.seen(what, start, recovery).await
}

/// How many Secrets of the namespace have the newest value.
async fn changed_secrets(world: &World) -> Result<usize> {
    let newest = &after()["A"];
    let secrets = world.secrets().list(&ListParams::default()).await?;
    let values = secrets
        .items
        .iter()
        .filter_map(|one| one.data.as_ref()?.get("A"));
    Ok(values.filter(|value| value.0 == newest.as_bytes()).count())
}

async fn long_queue() -> Result<Seen> {
    const BINDINGS: usize = 500;
    let setup = Setup::default().args(&["--concurrency", "1"]);
    let both = Neighbours::start("tenants-queue", setup).await?;
    let Neighbours { attacker, victim } = &both;
    let spec = attacker.direct_spec().await?;
    for number in 0..BINDINGS {
        attacker.apply_binding(&format!("b{number}"), &spec).await?;
    }
    victim
        .apply_binding("victim", &victim.direct_spec().await?)
        .await?;
    victim.until_ready("victim").await?;
    for number in 0..BINDINGS {
        attacker.until_ready(&format!("b{number}")).await?;
    }
    let start = Instant::now();
    attacker.doppler.replace(&attacker.name, "dev", after());
    attacker
        .until("the first of the changes", async || {
            ensure!(changed_secrets(attacker).await? > 0, "none yet");
            Ok(())
        })
        .await?;
    let changed = Instant::now();
    victim.doppler.replace(&victim.name, "dev", after());
    victim.until_values("victim", &after()).await?;
    let (waited, ahead) = (changed.elapsed(), changed_secrets(attacker).await?);
    ensure!(
        ahead < BINDINGS / 2,
        "{ahead} of {BINDINGS} bindings of the other namespace were served first"
    );
    attacker
        .until_within(Duration::from_mins(2), "the other changes", async || {
            let done = changed_secrets(attacker).await?;
            ensure!(done == BINDINGS, "{done} so far");
            Ok(())
        })
        .await?;
    let what = format!(
        "{ahead} of {BINDINGS} bindings were served before the other namespace's change was"
    );
    both.seen(what, start, waited).await
}
