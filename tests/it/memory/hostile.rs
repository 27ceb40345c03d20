//! A Prefect server that the author of a binding controls, and whose answers are small as text and
//! large once they are decoded.
//!
//! Input: a world with a config `dev`, and the text of a template.
//! Output: bindings of each kind of hostile answer, and what the operator has to say of them.
//! Invariants: each answer is within the bound on its bytes, so that only the decoded size counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use wiremock::matchers::{method, path_regex};
use wiremock::{Mock, MockServer, Request as Received, ResponseTemplate};

use crate::world::World;

/// Blocks, and sockets.
const BLOCKS: usize = 8;
const SOCKETS: usize = 64;
/// The part of an event's message that each socket gets. The rest never comes.
const MESSAGE_BYTES: usize = (2 << 20) - 1024;

/// A kind of hostile answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Eight blocks of 1 MiB.
    Blocks,
    /// Two templates whose `env` has 4 MiB.
    Templates,
    /// A page of 200 deployments with 8 MiB, each with a list as its namespace.
    Deployments,
    /// 64 event sockets, each with a message of 2 MiB that does not end.
    Sockets,
}

impl Input {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Blocks,
        Self::Templates,
        Self::Deployments,
        Self::Sockets,
    ];

    /// What it is, in a few words.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Blocks => "eight blocks of 1 MiB that unfold",
            Self::Templates => "two templates with 4 MiB of env that unfold",
            Self::Deployments => "a page of deployments of 8 MiB that unfolds",
            Self::Sockets => "64 event sockets with messages of 2 MiB without end",
        }
    }

    /// Its name in names of objects.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::Templates => "templates",
            Self::Deployments => "deployments",
            Self::Sockets => "sockets",
        }
    }

    const fn bindings(self) -> usize {
        match self {
            Self::Blocks => BLOCKS,
            Self::Templates => 2,
            Self::Deployments => 1,
            Self::Sockets => SOCKETS,
        }
    }
}

/// The server.
pub struct HostileServer {
    address: SocketAddr,
    messages: Arc<AtomicUsize>,
    _answers: MockServer,
}

impl HostileServer {
    /// Starts the server. `template` is one for jobs in the world's namespace.
    pub async fn start(world: &World, template: &str) -> Result<Self> {
        let answers = MockServer::start().await;
        mount(&answers, world, template).await;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let messages = Arc::new(AtomicUsize::new(0));
        let (http, sent) = (*answers.address(), Arc::clone(&messages));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(stream, http, Arc::clone(&sent)));
            }
        });
        Ok(Self {
            address,
            messages,
            _answers: answers,
        })
    }

    /// Applies the bindings that lead to an input.
    pub async fn apply(&self, world: &World, input: Input) -> Result<()> {
        for number in 0..input.bindings() {
            let name = format!("{}-{number}", input.name());
            let mut spec = world.spec();
            spec["prefect"]["server"]["remoteApiUrl"] = json!(format!("http://{}", self.address));
            spec["prefect"]["block"]["name"] = json!("good");
            match input {
                Input::Blocks => spec["prefect"]["block"]["name"] = json!(format!("wide{number}")),
                Input::Templates => {
                    spec["inject"] = json!({"workPools": [{"name": format!("wide{number}")}]});
                }
                Input::Deployments => {
                    spec["inject"] = json!({"workPools": [{"name": "pages", "mode": "Observe"}]});
                }
                Input::Sockets => {
                    // Each key has a socket of its own.
                    let key = format!("{name}-key");
                    world.put_token(&key, &crate::world::secret(&key)).await?;
                    let key = json!({"valueFrom": {"secretKeyRef": {"name": key, "key": "token"}}});
                    spec["prefect"]["server"]["apiKey"] = key;
                }
            }
            world.apply_binding(&name, &spec).await?;
        }
        Ok(())
    }

    /// Waits until the operator has received an input, and reports it.
    pub async fn until_reported(&self, world: &World, input: Input) -> Result<()> {
        for number in 0..input.bindings() {
            let name = format!("{}-{number}", input.name());
            match input {
                Input::Blocks | Input::Templates => {
                    world.until_not_ready(&name, "AnswerTooLarge").await?;
                }
                Input::Deployments => drop(world.until_not_ready(&name, "PoolEntryAbsent").await?),
                Input::Sockets => drop(world.until_ready(&name).await?),
            }
        }
        if input == Input::Sockets {
            world
                .until("a message on each socket", async || {
                    let sent = self.messages.load(Ordering::SeqCst);
                    ensure!(sent >= SOCKETS, "{sent} so far");
                    Ok(())
                })
                .await?;
        }
        Ok(())
    }
}

fn json_body(text: impl Into<Vec<u8>>) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_raw(text, "application/json")
}

/// A list of `{"a":1}` that takes `bytes` as text.
fn objects(bytes: usize) -> String {
    format!("[{}]", vec![r#"{"a":1}"#; bytes / 8].join(","))
}

/// Blocks `wide…` and pools `wide…` have many values, and pool `pages` has deployments with a list as
/// their namespace.
async fn mount(server: &MockServer, world: &World, template: &str) {
    let good = json!({"project": world.name, "config": "dev", "access_token": world.token});
    let good = json!({"id": "good", "data": {"value": good}}).to_string();
    let wide = format!(
        r#"{{"id":"wide","data":{{"value":{}}}}}"#,
        objects((1 << 20) - 64)
    );
    let pool =
        |template: &str| format!(r#"{{"type":"kubernetes","base_job_template":{template}}}"#);
    let env = objects((4 << 20) - 1024);
    let wide_pool = pool(&format!(r#"{{"job_configuration":{{"env":{env}}}}}"#));
    let namespace = objects((8 << 20) / 200 - 256);
    let deployment = format!(r#"{{"name":"d","job_variables":{{"namespace":{namespace}}}}}"#);
    let page = format!("[{}]", vec![deployment; 200].join(","));
    let mut first_page = true;
    let pages = std::sync::Mutex::new(move || std::mem::replace(&mut first_page, false));
    for (path, body) in [
        ("/block_documents/name/wide", wide),
        ("/block_documents/name/good", good),
        ("/work_pools/wide", wide_pool),
        ("/work_pools/pages", pool(template)),
    ] {
        Mock::given(method("GET"))
            .and(path_regex(path))
            .respond_with(json_body(body))
            .mount(server)
            .await;
    }
    Mock::given(method("GET"))
        .and(path_regex("/csrf-token"))
        .respond_with(ResponseTemplate::new(422))
        .mount(server)
        .await;
    Mock::given(path_regex("/deployments/filter"))
        .respond_with(move |_: &Received| {
            let is_first = (pages.lock().expect("no test panics here"))();
            json_body(if is_first {
                page.clone()
            } else {
                "[]".to_owned()
            })
        })
        .mount(server)
        .await;
}

/// Serves the event socket itself, and passes everything else on.
async fn connection(mut stream: TcpStream, http: SocketAddr, messages: Arc<AtomicUsize>) {
    let mut head = [0; 4096];
    let read = stream.peek(&mut head).await.unwrap_or(0);
    let is_socket = head[..read]
        .windows(17)
        .any(|part| part.eq_ignore_ascii_case(b"upgrade: websocke"));
    if is_socket {
        let _ = endless_message(stream, &messages).await;
    } else if let Ok(mut server) = TcpStream::connect(http).await {
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
    }
}

/// Opens the socket as Prefect does, then sends the beginning of an event.
async fn endless_message(stream: TcpStream, messages: &AtomicUsize) -> Result<()> {
    #[allow(clippy::result_large_err, clippy::unnecessary_wraps)] // the library's type
    fn accept(_: &Request, mut answer: Response) -> Result<Response, ErrorResponse> {
        let protocol = HeaderValue::from_static("prefect");
        answer
            .headers_mut()
            .insert("sec-websocket-protocol", protocol);
        Ok(answer)
    }
    let mut socket = accept_hdr_async(stream, accept).await?;
    let _credentials = socket.next().await;
    socket
        .send(Message::text(r#"{"type": "auth_success"}"#))
        .await?;
    let _filter = socket.next().await;
    let event: Value = json!({"type": "event", "event": {"payload": null}});
    let begin = event.to_string().replace("null", &objects(MESSAGE_BYTES));
    let frame = Frame::message(
        begin[..MESSAGE_BYTES].to_owned(),
        OpCode::Data(Data::Text),
        false,
    );
    messages.fetch_add(1, Ordering::SeqCst);
    socket.send(Message::Frame(frame)).await?;
    while socket.next().await.is_some_and(|message| message.is_ok()) {}
    Ok(())
}
