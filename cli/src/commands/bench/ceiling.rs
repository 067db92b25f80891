//! The ceilings that `bench` compares with: a writer's API that does nothing, or a log and nothing else.

use std::path::Path;
use std::pin::Pin;

use bytes::Bytes;
use driftdb::v1;
use driftdb::v1::writer_service_server::{WriterService, WriterServiceServer};
use driftdb_common::error::{Error, Result};
use driftdb_common::limits;
use driftdb_common::service::daemon;
use driftdb_common::service::server::{self, Listener};
use driftdb_common::storage::fs::{File, FileSystem, OsFileSystem};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use v1::document::Body;
use v1::operation::Action;

use crate::args::{BenchServer, Ceiling};
use crate::exit::Outcome;
use crate::render::Output;

/// The log's file: preallocated, and written from the start again when it is full.
const FILE_BYTES: usize = 64 << 20;
/// Bytes of one group.
const GROUP_BYTES: usize = 4 << 20;

/// Serves a ceiling until a signal.
pub async fn run(args: BenchServer, out: &mut Output) -> Outcome {
    let shutdown = daemon::cancel_on_signals()?;
    let listener = Listener::bind(args.listen).await?;
    let log = match args.ceiling {
        Ceiling::Echo => None,
        Ceiling::Log => Some(Log::open(&args.dir)?),
    };
    if let Some(address) = listener.address() {
        out.text(&format!("listening on {address}\n"))?;
    }
    let mut routes = tonic::service::Routes::builder();
    routes.add_service(
        WriterServiceServer::new(Server { log }).max_decoding_message_size(limits::REQUEST_BYTES),
    );
    let health = server::health::<WriterServiceServer<Server>>(shutdown.clone()).await;
    Ok(server::serve(listener, routes, health, shutdown).await?)
}

/// An append to the log, and who waits for it.
struct Entry {
    bytes: Bytes,
    answer: oneshot::Sender<u64>,
}

/// Group commit: one thread writes and syncs what has gathered.
struct Log(mpsc::Sender<Entry>);

impl Log {
    fn open(dir: &Path) -> Result<Log> {
        let failed =
            |e: std::io::Error| Error::io(format_args!("cannot make a log in {}", dir.display()), &e);
        OsFileSystem.create_dir(dir).map_err(failed)?;
        let file = preallocated(dir).map_err(failed)?;
        let (sender, entries) = mpsc::channel(limits::QUEUE_REQUESTS);
        let (synced, mut groups) = mpsc::unbounded_channel::<(u64, Vec<oneshot::Sender<u64>>)>();
        std::thread::spawn(move || commit(file.as_ref(), entries, &synced));
        // One wake-up a group crosses threads; those who wait are woken from here, which is cheaper.
        tokio::spawn(async move {
            while let Some((seq, waiting)) = groups.recv().await {
                for answer in waiting {
                    // A caller that has gone needs no answer.
                    let _ = answer.send(seq);
                }
            }
        });
        Ok(Log(sender))
    }

    async fn append(&self, bytes: Bytes) -> std::result::Result<u64, Status> {
        let stopped = || Status::internal("the log has stopped");
        let (answer, synced) = oneshot::channel();
        self.0.send(Entry { bytes, answer }).await.map_err(|_| stopped())?;
        synced.await.map_err(|_| stopped())
    }
}

fn preallocated(dir: &Path) -> std::io::Result<Box<dyn File>> {
    let file = OsFileSystem.create(&dir.join("ceiling.log"))?;
    // Zeros are written, not only reserved: the first write to a reserved block goes through the journal.
    let zeros = vec![0; 1 << 20];
    for start in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_at(&zeros, start as u64)?;
    }
    file.sync()?;
    OsFileSystem.sync_dir(dir)?;
    Ok(file)
}

/// Ends with the first error; those who wait learn of it because nobody answers them.
fn commit(
    file: &dyn File,
    mut entries: mpsc::Receiver<Entry>,
    synced: &mpsc::UnboundedSender<(u64, Vec<oneshot::Sender<u64>>)>,
) {
    let mut group: Vec<u8> = Vec::with_capacity(GROUP_BYTES);
    let (mut position, mut seq) = (0, 0);
    while let Some(first) = entries.blocking_recv() {
        group.clear();
        let mut waiting = Vec::new();
        let mut next = Some(first);
        while let Some(Entry { bytes, answer }) = next {
            group.extend_from_slice(&bytes);
            waiting.push(answer);
            next = if group.len() < GROUP_BYTES { entries.try_recv().ok() } else { None };
        }
        if position + group.len() > FILE_BYTES {
            position = 0;
        }
        if file.write_at(&group, position as u64).and_then(|()| file.sync()).is_err() {
            return;
        }
        position += group.len();
        seq += waiting.len() as u64;
        if synced.send((seq, waiting)).is_err() {
            return;
        }
    }
}

struct Server {
    log: Option<Log>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = std::result::Result<T, Status>> + Send>>;

fn not_here<T>() -> std::result::Result<Response<T>, Status> {
    Err(Status::unimplemented("a ceiling only applies"))
}

#[tonic::async_trait]
impl WriterService for Server {
    type IngestStream = Answers<v1::IngestResponse>;
    type ExecuteStream = Answers<v1::WriterServiceExecuteResponse>;
    type SnapshotStream = Answers<v1::SnapshotResponse>;
    type CompactStream = Answers<v1::CompactResponse>;
    type VerifyStream = Answers<v1::VerifyResponse>;

    async fn apply(
        &self,
        request: Request<v1::ApplyRequest>,
    ) -> std::result::Result<Response<v1::ApplyResponse>, Status> {
        let mut seq = 1;
        if let Some(log) = &self.log {
            for operation in request.into_inner().operations {
                seq = log.append(bytes_of(operation)).await?;
            }
        }
        let token = Some(v1::WriteToken { seq, time: Some(prost_types::Timestamp::default()), epoch: 1 });
        Ok(Response::new(v1::ApplyResponse { token, replayed: false }))
    }

    async fn create_table(
        &self,
        _: Request<v1::CreateTableRequest>,
    ) -> std::result::Result<Response<v1::CreateTableResponse>, Status> {
        not_here()
    }

    async fn alter_table(
        &self,
        _: Request<v1::AlterTableRequest>,
    ) -> std::result::Result<Response<v1::AlterTableResponse>, Status> {
        not_here()
    }

    async fn drop_table(
        &self,
        _: Request<v1::DropTableRequest>,
    ) -> std::result::Result<Response<v1::DropTableResponse>, Status> {
        not_here()
    }

    async fn ingest(
        &self,
        _: Request<Streaming<v1::IngestRequest>>,
    ) -> std::result::Result<Response<Self::IngestStream>, Status> {
        not_here()
    }

    async fn execute(
        &self,
        _: Request<v1::WriterServiceExecuteRequest>,
    ) -> std::result::Result<Response<Self::ExecuteStream>, Status> {
        not_here()
    }

    async fn snapshot(
        &self,
        _: Request<v1::SnapshotRequest>,
    ) -> std::result::Result<Response<Self::SnapshotStream>, Status> {
        not_here()
    }

    async fn compact(
        &self,
        _: Request<v1::CompactRequest>,
    ) -> std::result::Result<Response<Self::CompactStream>, Status> {
        not_here()
    }

    async fn verify(
        &self,
        _: Request<v1::VerifyRequest>,
    ) -> std::result::Result<Response<Self::VerifyStream>, Status> {
        not_here()
    }

    async fn status(
        &self,
        _: Request<v1::WriterServiceStatusRequest>,
    ) -> std::result::Result<Response<v1::WriterServiceStatusResponse>, Status> {
        not_here()
    }
}

/// What of an operation a log would hold.
fn bytes_of(operation: v1::Operation) -> Bytes {
    let document = match operation.action {
        Some(Action::Insert(document) | Action::Put(document) | Action::Patch(document)) => document.body,
        _ => None,
    };
    match document {
        Some(Body::Msgpack(bytes)) => bytes,
        Some(Body::Json(text)) => text.into(),
        None => operation.key.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_log_answers_what_it_has_written() {
        let dir = tempfile::tempdir().unwrap();
        let log = std::sync::Arc::new(Log::open(dir.path()).unwrap());
        let appends = (0..100u8).map(|i| {
            let log = log.clone();
            tokio::spawn(async move { log.append(vec![i; 10].into()).await.unwrap() })
        });
        let appends: Vec<_> = appends.collect();
        let mut last = 0;
        for append in appends {
            last = last.max(append.await.unwrap());
        }
        assert_eq!(last, 100);
        let file = OsFileSystem.open(&dir.path().join("ceiling.log")).unwrap();
        let mut bytes = vec![0; 1000];
        assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 1000);
        bytes.sort_unstable();
        assert!(bytes.chunks(10).zip(0..100u8).all(|(chunk, i)| chunk == [i; 10]));
    }
}
