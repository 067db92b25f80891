//! Stub daemons with scripted behaviour, behind a proxy that can break connections.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::feed;
use crate::client::reasons::DOMAIN;
use crate::stub::{ReaderStub, StubReader, StubStream, StubWriter, WriterStub};
use crate::v1;
use v1::reader_service_server::ReaderServiceServer;
use v1::writer_service_server::WriterServiceServer;

/// A failure as a daemon reports it.
pub(super) fn failure(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, std::collections::HashMap::new());
    Status::with_error_details(code, "scripted failure", details)
}

/// What a stub does with a request.
#[derive(Debug, Clone)]
pub(super) enum Act {
    Answer,
    Fail(Code, &'static str),
    /// Executes the request and breaks the connection before the response.
    Cut,
    /// Breaks the connection after this many messages of the response.
    CutAfter(u64),
    /// Ends the response after this many messages, as if it were complete.
    EndAfter(u64),
    /// Sends nothing after this many messages of the response.
    SilentAfter(u64),
    /// Performs another act after a delay.
    Late(Duration, &'static Act),
}

/// The requests that a stub received, and its next acts. The last act is repeated.
#[derive(Debug)]
pub(super) struct StubScript {
    acts: Mutex<Vec<Act>>,
    pub(super) asked: Mutex<Vec<String>>,
    cut: Notify,
}

impl StubScript {
    pub(super) fn new(acts: &[Act]) -> Arc<StubScript> {
        let acts = acts.iter().rev().cloned().collect();
        Arc::new(StubScript { acts: Mutex::new(acts), asked: Mutex::default(), cut: Notify::new() })
    }

    fn asked(&self, what: impl std::fmt::Debug) -> Act {
        self.asked.lock().unwrap().push(format!("{what:?}"));
        let mut acts = self.acts.lock().unwrap();
        if acts.len() > 1 { acts.pop().unwrap() } else { acts[0].clone() }
    }

    pub(super) fn times_asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// The number of messages after which the next response breaks.
    fn cut_after(&self) -> Option<usize> {
        match self.acts.lock().unwrap().last() {
            Some(Act::CutAfter(messages)) => usize::try_from(*messages).ok(),
            _ => None,
        }
    }

    /// Breaks the connection and never responds on it.
    async fn broken<T>(&self) -> Result<T, Status> {
        self.cut.notify_waiters();
        std::future::pending().await
    }
}

/// Serves a stub on any port, behind a proxy that its script breaks.
async fn serve(script: Arc<StubScript>, server: tonic::transport::server::Router) -> String {
    serve_at(script, server, ([127, 0, 0, 1], 0).into()).await
}

async fn serve_at(
    script: Arc<StubScript>,
    server: tonic::transport::server::Router,
    address: SocketAddr,
) -> String {
    let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = inside.local_addr().unwrap();
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(inside)));
    let outside = TcpListener::bind(address).await.unwrap();
    let address = outside.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = outside.accept().await.unwrap();
            let script = script.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(upstream).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    () = script.cut.notified() => {}
                }
            });
        }
    });
    address
}

pub(super) async fn writer(script: &Arc<StubScript>) -> String {
    let service = WriterServiceServer::new(StubWriter(ScriptedWriter(script.clone())));
    serve(script.clone(), Server::builder().add_service(service)).await
}

/// Serves a reader of the rows `1` to `9`, each in its own message. A resume token is the last key sent.
pub(super) async fn reader(script: &Arc<StubScript>) -> String {
    reader_at(script, ([127, 0, 0, 1], 0).into()).await
}

/// Like `reader`, at an address.
pub(super) async fn reader_at(script: &Arc<StubScript>, address: SocketAddr) -> String {
    let service = ReaderServiceServer::new(StubReader(ScriptedReader(script.clone())));
    serve_at(script.clone(), Server::builder().add_service(service), address).await
}

/// A writer that knows its request ids: `asked` contains them. The seq of a write is the position of its first request.
struct ScriptedWriter(Arc<StubScript>);

impl ScriptedWriter {
    async fn answer(&self, options: Option<v1::CommitOptions>) -> Result<v1::ApplyResponse, Status> {
        let id = options.unwrap_or_default().request_id;
        let act = self.0.asked(&id);
        let asked = self.0.asked.lock().unwrap().clone();
        let first = asked.iter().position(|other| *other == format!("{id:?}")).unwrap();
        let replayed = !id.is_empty() && first + 1 < asked.len();
        let seq = if id.is_empty() { asked.len() } else { first + 1 } as u64;
        match act {
            Act::Answer | Act::CutAfter(_) => Ok(v1::ApplyResponse {
                token: Some(v1::WriteToken { seq, time: None, epoch: 7, incarnation: 0 }),
                replayed,
                ..Default::default()
            }),
            Act::Fail(code, reason) => Err(failure(code, reason)),
            _ => self.0.broken().await,
        }
    }
}

#[tonic::async_trait]
impl WriterStub for ScriptedWriter {
    async fn apply(&self, request: v1::ApplyRequest) -> Result<v1::ApplyResponse, Status> {
        self.answer(request.options).await
    }

    async fn create_table(&self, request: v1::CreateTableRequest) -> Result<v1::CreateTableResponse, Status> {
        let token = self.answer(request.options).await?.token;
        Ok(v1::CreateTableResponse { token })
    }

    async fn execute(
        &self,
        request: v1::WriterServiceExecuteRequest,
    ) -> Result<StubStream<v1::WriterServiceExecuteResponse>, Status> {
        use v1::writer_service_execute_response::Event;
        let cut = self.0.cut_after();
        let token = self.answer(request.options).await?.token.unwrap();
        let events =
            [Event::Progress(v1::Progress::default()), Event::Token(token), Event::Message("done".into())];
        let answers = events
            .map(|event| Ok(v1::WriterServiceExecuteResponse { event: Some(event), ..Default::default() }));
        let script = self.0.clone();
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            for (place, answer) in answers.into_iter().enumerate() {
                if Some(place) == cut {
                    // Let the messages that were sent arrive.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let _: Result<(), Status> = script.broken().await;
                }
                sender.send(answer).await.unwrap();
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }

    async fn status(&self) -> Result<v1::WriterServiceStatusResponse, Status> {
        match self.0.asked("status") {
            Act::Answer => Ok(v1::WriterServiceStatusResponse::default()),
            Act::Fail(code, reason) => Err(failure(code, reason)),
            _ => self.0.broken().await,
        }
    }
}

struct ScriptedReader(Arc<StubScript>);

fn row(key: u64) -> v1::Row {
    v1::Row {
        key: key.to_string(),
        document: Some(format!("{{\"id\":\"{key}\"}}").into()),
        ..Default::default()
    }
}

fn header() -> Option<v1::ReadHeader> {
    Some(v1::ReadHeader { read_seq: 5, ..Default::default() })
}

#[tonic::async_trait]
impl ReaderStub for ScriptedReader {
    /// Returns two keys per call; the rest is `remaining`.
    async fn get(&self, request: v1::GetRequest) -> Result<v1::GetResponse, Status> {
        let v1::GetRequest { mut keys, freshness, as_of, .. } = request;
        let act = self.0.asked((freshness.map(|f| (f.min_seq, f.epoch)), as_of.and_then(|a| a.at)));
        let remaining = keys.split_off(keys.len().min(2));
        let rows = keys.iter().map(|key| row(key.parse().unwrap())).collect();
        match act {
            Act::Fail(code, reason) => Err(failure(code, reason)),
            Act::Cut => self.0.broken().await,
            _ => Ok(v1::GetResponse { header: header(), rows, remaining }),
        }
    }

    async fn select(&self, request: v1::SelectRequest) -> Result<StubStream<v1::SelectResponse>, Status> {
        let token = request.resume_token;
        let after: u64 = std::str::from_utf8(&token).unwrap().parse().unwrap_or(0);
        let until = match self.0.asked(after) {
            Act::Fail(code, reason) => return Err(failure(code, reason)),
            Act::Cut => return self.0.broken().await,
            Act::CutAfter(messages) => after + messages,
            _ => 9,
        };
        let script = self.0.clone();
        let messages = (after + 1..=9).map(move |key| {
            let resume_token = if key < 9 { key.to_string().into() } else { bytes::Bytes::new() };
            let header = (key == after + 1).then(header).flatten();
            v1::SelectResponse { header, rows: vec![row(key)], resume_token, count: 9, notes: Vec::new() }
        });
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            for message in messages {
                if message.rows[0].key.parse::<u64>().unwrap() > until {
                    // Let the messages that were sent arrive.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let _: Result<(), Status> = script.broken().await;
                }
                sender.send(Ok(message)).await.unwrap();
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }

    async fn watch_drift(
        &self,
        request: v1::WatchDriftRequest,
    ) -> Result<StubStream<v1::WatchDriftResponse>, Status> {
        let mut act = self.0.asked(feed::asked(&request));
        if let Act::Late(wait, then) = act {
            tokio::time::sleep(wait).await;
            act = then.clone();
        }
        let (stop, silent) = match act {
            Act::Fail(code, reason) => return Err(failure(code, reason)),
            Act::Cut => return self.0.broken().await,
            Act::Answer => (u64::MAX, false),
            Act::CutAfter(messages) | Act::EndAfter(messages) => (messages, false),
            Act::SilentAfter(messages) => (messages, true),
            Act::Late(..) => return Err(Status::internal("a late act cannot contain another")),
        };
        let script = self.0.clone();
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let messages = feed::messages(&request);
            for message in messages.into_iter().take(usize::try_from(stop).unwrap_or(usize::MAX)) {
                if sender.send(Ok(message)).await.is_err() {
                    return;
                }
            }
            if let Act::CutAfter(_) = act {
                // Let the messages that were sent arrive.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let _: Result<(), Status> = script.broken().await;
            }
            if silent || matches!(act, Act::Answer) && request.until_seq == 0 {
                sender.closed().await;
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }
}
