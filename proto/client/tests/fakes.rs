//! Stub daemons with scripted behaviour, behind a proxy that can break connections.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::v1;
use v1::reader_service_server::{ReaderService, ReaderServiceServer};
use v1::writer_service_server::{WriterService, WriterServiceServer};

pub(super) type Stubborn<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A failure as a daemon reports it.
pub(super) fn failure(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, super::DOMAIN, std::collections::HashMap::new());
    Status::with_error_details(code, "scripted failure", details)
}

fn not_asked<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("no test asks for this"))
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
pub(super) struct Script {
    acts: Mutex<Vec<Act>>,
    pub(super) asked: Mutex<Vec<String>>,
    cut: Notify,
}

impl Script {
    pub(super) fn new(acts: &[Act]) -> Arc<Script> {
        let acts = acts.iter().rev().cloned().collect();
        Arc::new(Script { acts: Mutex::new(acts), asked: Mutex::default(), cut: Notify::new() })
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
async fn serve(script: Arc<Script>, server: tonic::transport::server::Router) -> String {
    serve_at(script, server, ([127, 0, 0, 1], 0).into()).await
}

async fn serve_at(
    script: Arc<Script>,
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

pub(super) async fn writer(script: &Arc<Script>) -> String {
    let fake = WriterServiceServer::new(FakeWriter(script.clone()));
    serve(script.clone(), Server::builder().add_service(fake)).await
}

/// Serves a reader of the rows `1` to `9`, each in its own message. A resume token is the last key sent.
pub(super) async fn reader(script: &Arc<Script>) -> String {
    reader_at(script, ([127, 0, 0, 1], 0).into()).await
}

/// Like `reader`, at an address.
pub(super) async fn reader_at(script: &Arc<Script>, address: SocketAddr) -> String {
    let fake = ReaderServiceServer::new(FakeReader(script.clone()));
    serve_at(script.clone(), Server::builder().add_service(fake), address).await
}

/// A writer that knows its request ids: `asked` contains them. The seq of a write is the position of its first request.
struct FakeWriter(Arc<Script>);

impl FakeWriter {
    async fn answer(&self, options: Option<v1::CommitOptions>) -> Result<v1::ApplyResponse, Status> {
        let id = options.unwrap_or_default().request_id;
        let act = self.0.asked(&id);
        let asked = self.0.asked.lock().unwrap().clone();
        let first = asked.iter().position(|other| *other == format!("{id:?}")).unwrap();
        let replayed = !id.is_empty() && first + 1 < asked.len();
        let seq = if id.is_empty() { asked.len() } else { first + 1 } as u64;
        match act {
            Act::Answer | Act::CutAfter(_) => {
                Ok(v1::ApplyResponse { token: Some(v1::WriteToken { seq, time: None, epoch: 7 }), replayed })
            }
            Act::Fail(code, reason) => Err(failure(code, reason)),
            _ => self.0.broken().await,
        }
    }
}

#[tonic::async_trait]
impl WriterService for FakeWriter {
    type IngestStream = Stubborn<v1::IngestResponse>;
    type ExecuteStream = Stubborn<v1::WriterServiceExecuteResponse>;
    type SnapshotStream = Stubborn<v1::SnapshotResponse>;
    type CompactStream = Stubborn<v1::CompactResponse>;
    type VerifyStream = Stubborn<v1::VerifyResponse>;

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        self.answer(request.into_inner().options).await.map(Response::new)
    }

    async fn create_table(
        &self,
        request: Request<v1::CreateTableRequest>,
    ) -> Result<Response<v1::CreateTableResponse>, Status> {
        let token = self.answer(request.into_inner().options).await?.token;
        Ok(Response::new(v1::CreateTableResponse { token }))
    }

    async fn execute(
        &self,
        request: Request<v1::WriterServiceExecuteRequest>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        use v1::writer_service_execute_response::Event;
        let cut = self.0.cut_after();
        let token = self.answer(request.into_inner().options).await?.token.unwrap();
        let events =
            [Event::Progress(v1::Progress::default()), Event::Token(token), Event::Message("done".into())];
        let answers = events.map(|event| Ok(v1::WriterServiceExecuteResponse { event: Some(event) }));
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
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }

    async fn alter_table(
        &self,
        _: Request<v1::AlterTableRequest>,
    ) -> Result<Response<v1::AlterTableResponse>, Status> {
        not_asked()
    }
    async fn drop_table(
        &self,
        _: Request<v1::DropTableRequest>,
    ) -> Result<Response<v1::DropTableResponse>, Status> {
        not_asked()
    }
    async fn ingest(
        &self,
        _: Request<tonic::Streaming<v1::IngestRequest>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        not_asked()
    }
    async fn snapshot(
        &self,
        _: Request<v1::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        not_asked()
    }
    async fn compact(&self, _: Request<v1::CompactRequest>) -> Result<Response<Self::CompactStream>, Status> {
        not_asked()
    }
    async fn verify(&self, _: Request<v1::VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        not_asked()
    }
    async fn status(
        &self,
        _: Request<v1::WriterServiceStatusRequest>,
    ) -> Result<Response<v1::WriterServiceStatusResponse>, Status> {
        match self.0.asked("status") {
            Act::Answer => Ok(Response::new(v1::WriterServiceStatusResponse::default())),
            Act::Fail(code, reason) => Err(failure(code, reason)),
            _ => self.0.broken().await,
        }
    }
}

struct FakeReader(Arc<Script>);

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
impl ReaderService for FakeReader {
    type SelectStream = Stubborn<v1::SelectResponse>;
    type HistoryStream = Stubborn<v1::HistoryResponse>;
    type DiffStream = Stubborn<v1::DiffResponse>;
    type WatchDriftStream = Stubborn<v1::WatchDriftResponse>;
    type ExecuteStream = Stubborn<v1::ReaderServiceExecuteResponse>;

    /// Returns two keys per call; the rest is `remaining`.
    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let v1::GetRequest { mut keys, freshness, as_of, .. } = request.into_inner();
        let act = self.0.asked((freshness.map(|f| (f.min_seq, f.epoch)), as_of.and_then(|a| a.at)));
        let remaining = keys.split_off(keys.len().min(2));
        let rows = keys.iter().map(|key| row(key.parse().unwrap())).collect();
        match act {
            Act::Fail(code, reason) => Err(failure(code, reason)),
            Act::Cut => self.0.broken().await,
            _ => Ok(Response::new(v1::GetResponse { header: header(), rows, remaining })),
        }
    }

    async fn select(
        &self,
        request: Request<v1::SelectRequest>,
    ) -> Result<Response<Self::SelectStream>, Status> {
        let token = request.into_inner().resume_token;
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
            v1::SelectResponse { header, rows: vec![row(key)], resume_token, count: 9 }
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
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }

    async fn history(&self, _: Request<v1::HistoryRequest>) -> Result<Response<Self::HistoryStream>, Status> {
        not_asked()
    }
    async fn diff(&self, _: Request<v1::DiffRequest>) -> Result<Response<Self::DiffStream>, Status> {
        not_asked()
    }
    async fn watch_drift(
        &self,
        request: Request<v1::WatchDriftRequest>,
    ) -> Result<Response<Self::WatchDriftStream>, Status> {
        let request = request.into_inner();
        let mut act = self.0.asked(super::feed::asked(&request));
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
            Act::Late(..) => return not_asked(),
        };
        let script = self.0.clone();
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let messages = super::feed::messages(&request);
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
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }
    async fn list_tables(
        &self,
        _: Request<v1::ListTablesRequest>,
    ) -> Result<Response<v1::ListTablesResponse>, Status> {
        not_asked()
    }
    async fn describe_table(
        &self,
        _: Request<v1::DescribeTableRequest>,
    ) -> Result<Response<v1::DescribeTableResponse>, Status> {
        not_asked()
    }
    async fn execute(
        &self,
        _: Request<v1::ReaderServiceExecuteRequest>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        not_asked()
    }
    async fn status(
        &self,
        _: Request<v1::ReaderServiceStatusRequest>,
    ) -> Result<Response<v1::ReaderServiceStatusResponse>, Status> {
        not_asked()
    }
}
