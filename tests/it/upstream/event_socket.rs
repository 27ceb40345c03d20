//! The event socket of a real Prefect server: its events, and which clients it accepts.
//!
//! These tests use the operator's socket client directly, because metrics and status do not show
//! single events.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use doppler_prefect_operator::{
    prefect::{
        Client, Connection, ServerEvent, SocketError,
        connection::Auth,
        event_socket::{DisconnectCause, RejectionCause, SocketLimits, events},
    },
    upstream::limiter::{RateLimiter, ReadRequest},
};
use futures::{StreamExt, stream::BoxStream};
use serde_json::json;
use testkit::prefect::{Block, PrefectApi, PrefectOptions, PrefectServer};
use testkit::wait;
use tokio::time::{Instant, timeout, timeout_at};

use crate::world::secret;

const TIMEOUT: Duration = Duration::from_mins(1);
/// Wait for one event before the next attempt.
const ATTEMPT: Duration = Duration::from_millis(250);

fn connection(url: &str, auth: Auth) -> Result<Connection> {
    Ok(Connection {
        api_url: url.parse()?,
        auth,
        headers: Vec::new(),
        ca: None,
        shared: None,
    })
}

/// A stream that only yields events of names with a prefix: other tests use the same server.
struct Socket {
    events: BoxStream<'static, Result<ServerEvent, SocketError>>,
    prefix: &'static str,
}

impl Socket {
    /// Opens a socket and waits for its first event, since the server does not confirm the
    /// subscription.
    async fn open(
        server: &PrefectServer,
        api: &PrefectApi,
        auth: Auth,
        prefix: &'static str,
    ) -> Result<Self> {
        let connection = connection(&server.api_url(), auth)?;
        let events = events(&connection, SocketLimits::default()).await?;
        let mut socket = Self { events, prefix };
        let mark = format!("{prefix}-mark-open");
        wait::until(TIMEOUT, "the first event", async || {
            api.put_block(&mark, &Block::object("p", "c", "t")).await?;
            timeout(ATTEMPT, socket.next()).await.context("no event")?
        })
        .await?;
        socket.events_before(api, "ready").await?;
        Ok(socket)
    }

    /// The next event of a block or pool with the prefix.
    async fn next(&mut self) -> Result<ServerEvent> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let event = timeout_at(deadline, self.events.next()).await;
            let event = event.context("no event")?.context("the stream ended")??;
            let name = match &event {
                ServerEvent::Block { name, .. } => name.as_deref(),
                ServerEvent::Pool { name } => Some(name.as_str()),
                // Other tests start runs.
                ServerEvent::RunPending(_)
                | ServerEvent::RunStarted(_)
                | ServerEvent::Heartbeat => None,
            };
            if name.is_some_and(|name| name.starts_with(self.prefix)) {
                return Ok(event);
            }
        }
    }

    /// The events before that of a block `mark`, which this creates, without the events of such
    /// blocks. The API client repeats requests that a busy database rejects, so events may arrive
    /// twice.
    async fn events_before(&mut self, api: &PrefectApi, mark: &str) -> Result<Vec<ServerEvent>> {
        let marks = format!("{}-mark-", self.prefix);
        let mark = format!("{marks}{mark}");
        let id = api.put_block(&mark, &Block::object("p", "c", "t")).await?;
        let mark = block(&id, &mark);
        let mut before = Vec::new();
        loop {
            match self.next().await? {
                event if event == mark => return Ok(before),
                ServerEvent::Block {
                    name: Some(name), ..
                } if name.starts_with(&marks) => {}
                event => before.push(event),
            }
        }
    }

    /// Ensures that `expected`, and no event of another name, arrives before the mark.
    async fn expect_event(
        &mut self,
        api: &PrefectApi,
        mark: &str,
        expected: &ServerEvent,
    ) -> Result<()> {
        let events = self.events_before(api, mark).await?;
        let name_of = |event: &ServerEvent| match event {
            ServerEvent::Block { name, .. } => name.clone(),
            ServerEvent::Pool { name } => Some(name.clone()),
            ServerEvent::RunPending(_) | ServerEvent::RunStarted(_) | ServerEvent::Heartbeat => {
                None
            }
        };
        ensure!(events.contains(expected), "{mark}: {events:?}");
        let others = events
            .iter()
            .find(|event| name_of(event) != name_of(expected));
        ensure!(others.is_none(), "{mark}: {events:?}");
        Ok(())
    }
}

fn block(id: &str, name: &str) -> ServerEvent {
    ServerEvent::Block {
        id: id.to_owned(),
        name: Some(name.to_owned()),
    }
}

fn pool(name: &str) -> ServerEvent {
    let name = name.to_owned();
    ServerEvent::Pool { name }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_block_change_sends_an_event_with_id_and_name() -> Result<()> {
    let server = PrefectServer::shared().await?;
    let api = server.api()?;
    let mut socket = Socket::open(server, &api, Auth::None, "event-b").await?;
    let (name, data) = ("event-b", Block::object("p", "c", "t"));

    let id = api.put_block(name, &data).await?;
    socket
        .expect_event(&api, "created", &block(&id, name))
        .await?;
    api.put_block(name, &data).await?;
    socket
        .expect_event(&api, "replaced", &block(&id, name))
        .await?;

    let path = format!("/block_documents/{id}");
    let another = json!({"name": "event-b-renamed", "data": {}});
    let renamed = api.patch(&path, &another);
    let rejected = renamed.await.unwrap_err().to_string();
    ensure!(rejected.contains("422"), "a block was renamed: {rejected}");

    api.delete_block("secret", name).await?;
    socket
        .expect_event(&api, "deleted", &block(&id, name))
        .await?;
    let recreated = api.put_block(name, &data).await?;
    ensure!(recreated != id, "the recreated block has the old id");
    socket
        .expect_event(&api, "recreated", &block(&recreated, name))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn event_of_a_referenced_block_matches_the_parent_document() -> Result<()> {
    let server = PrefectServer::shared().await?;
    let api = server.api()?;
    let mut socket = Socket::open(server, &api, Auth::None, "event-r").await?;
    let child = Block::object("p", "c", "t");
    let child_id = api.put_block("event-r-child", &child).await?;
    let of_child = block(&child_id, "event-r-child");
    socket.expect_event(&api, "child", &of_child).await?;
    let parent = Block::parent("eventparent", "event-r-child");
    let parent_id = api.put_block("event-r-parent", &parent).await?;
    let of_parent = block(&parent_id, "event-r-parent");
    socket.expect_event(&api, "parent", &of_parent).await?;

    api.put_block("event-r-child", &Block::object("p", "c", "other"))
        .await?;
    // The event names the child; no event names the parent.
    socket.expect_event(&api, "changed", &of_child).await?;

    let client = Client::new(
        &connection(&server.api_url(), Auth::None)?,
        TIMEOUT,
        RateLimiter::small(),
    )?;
    let document = client
        .block("eventparent", "event-r-parent", &ReadRequest::interactive())
        .await?;
    let block = document.resolve(None);
    ensure!(block.includes_document(&parent_id) && block.includes_document(&child_id));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_work_pool_change_sends_an_event_with_its_name() -> Result<()> {
    let server = PrefectServer::shared().await?;
    let api = server.api()?;
    let mut socket = Socket::open(server, &api, Auth::None, "event-p").await?;
    let name = "event-p";
    api.create_kubernetes_pool(name).await?;
    socket.expect_event(&api, "created", &pool(name)).await?;
    let mut template = api.template(name).await?;
    template["variables"]["properties"]["namespace"]["default"] = json!("jobs");
    api.set_template(name, &template).await?;
    socket.expect_event(&api, "changed", &pool(name)).await?;
    api.set_template(name, &template).await?;
    let events = socket.events_before(&api, "same").await?;
    ensure!(
        events.is_empty(),
        "an identical write sent events: {events:?}"
    );
    api.delete_pool(name).await?;
    socket.expect_event(&api, "deleted", &pool(name)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn socket_needs_valid_credentials_and_closes_with_its_server() -> Result<()> {
    let pair = format!("admin:{}", secret("socket"));
    let options = PrefectOptions {
        auth: Some(pair.clone()),
        ..PrefectOptions::default()
    };
    let server = PrefectServer::start(options).await?;
    let api = server.api()?;
    let wrong = secret("wrong");
    for auth in [
        Auth::None,
        Auth::Basic(format!("admin:{wrong}").as_str().into()),
        Auth::Bearer(wrong.as_str().into()),
    ] {
        let connection = connection(&server.api_url(), auth)?;
        let error = events(&connection, SocketLimits::default()).await.err();
        let error = error.context("the socket was accepted")?;
        let shown = format!("{error} {error:?}");
        ensure!(!shown.contains(&wrong), "{shown}");
        let SocketError::Rejected { cause, .. } = error else {
            anyhow::bail!("{shown}")
        };
        ensure!(cause == RejectionCause::Closed(1008), "{shown}");
    }
    let elsewhere = connection(
        &format!("http://127.0.0.1:{}", server.port()),
        Auth::Basic(pair.as_str().into()),
    )?;
    let error = events(&elsewhere, SocketLimits::default()).await.err();
    ensure!(
        matches!(
            &error,
            Some(SocketError::Rejected {
                cause: RejectionCause::Status(403 | 404),
                ..
            })
        ),
        "a URL without /api: {error:?}"
    );

    let right = Auth::Basic(pair.as_str().into());
    let mut socket = Socket::open(&server, &api, right, "event-a").await?;
    server.stop().await;
    let error = socket.next().await.unwrap_err();
    ensure!(
        matches!(
            error.downcast_ref(),
            Some(SocketError::Disconnected {
                cause: DisconnectCause::Closed | DisconnectCause::ConnectionLost,
                ..
            })
        ),
        "{error}"
    );
    Ok(())
}
