//! Ceilings for `bench` to compare with: a writer API that does nothing, and one that only appends to a log.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use driftdb::stub::{StubWriter, WriterStub};
use driftdb::v1;
use driftdb::v1::writer_service_server::WriterServiceServer;
use driftdb_common::error::{Error, Result};
use driftdb_common::limits;
use driftdb_common::memory::MemoryBudget;
use driftdb_common::service::daemon;
use driftdb_common::service::server::limit_options::ServerLimits;
use driftdb_common::service::server::{self, Listener, ServerResources};
use driftdb_common::storage::fs::{File, FileSystem, OsFileSystem};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use v1::document::Body;
use v1::operation::Action;

use crate::args::{BenchServerArgs, CeilingKind};
use crate::exit::CliResult;
use crate::render::Printer;

/// The size of the log file in bytes. It is preallocated, and overwritten from the start when it is full.
const FILE_BYTES: usize = 64 << 20;
/// The maximum size of a group, in bytes.
const GROUP_BYTES: usize = 4 << 20;

/// Serves a ceiling until a signal.
pub(crate) async fn run(args: BenchServerArgs, out: &mut Printer) -> CliResult {
    let shutdown = daemon::cancel_on_signals()?;
    let listener = Listener::bind(args.listen).await?;
    let log = match args.ceiling {
        CeilingKind::Echo => None,
        CeilingKind::Log => Some(CeilingLog::open(&args.dir)?),
    };
    if let Some(address) = listener.address() {
        out.print_text(&format!("listening on {address}\n"))?;
    }
    let service = WriterServiceServer::new(StubWriter(CeilingServer { log }));
    let service = service.max_decoding_message_size(limits::REQUEST_BYTES);
    let health = server::health::<WriterServiceServer<StubWriter<CeilingServer>>>(shutdown.clone()).await;
    let memory = MemoryBudget::new(limits::REQUEST_MEMORY_BYTES);
    let resources = ServerResources { memory, limits: ServerLimits::default() };
    Ok(server::serve(listener, service, health, resources, shutdown).await?)
}

/// An append to the log, and the channel for its acknowledgement.
struct LogAppend {
    bytes: Bytes,
    answer: oneshot::Sender<u64>,
}

/// Group commit: one thread writes and syncs all appends that have arrived.
struct CeilingLog(mpsc::Sender<LogAppend>);

impl CeilingLog {
    fn open(dir: &Path) -> Result<CeilingLog> {
        let failed =
            |e: std::io::Error| Error::io(format_args!("cannot create a log in {}", dir.display()), &e);
        OsFileSystem.create_dir(dir).map_err(failed)?;
        let file = preallocated(dir).map_err(failed)?;
        let (sender, entries) = mpsc::channel(limits::QUEUE_REQUESTS);
        let (synced, mut groups) = mpsc::unbounded_channel::<(u64, Vec<oneshot::Sender<u64>>)>();
        std::thread::spawn(move || commit(file.as_ref(), entries, &synced));
        // One message per group crosses threads. Waking the callers from this task is cheaper.
        tokio::spawn(async move {
            while let Some((seq, waiting)) = groups.recv().await {
                for answer in waiting {
                    // A caller that has gone needs no acknowledgement.
                    let _ = answer.send(seq);
                }
            }
        });
        Ok(CeilingLog(sender))
    }

    async fn append(&self, bytes: Bytes) -> std::result::Result<u64, Status> {
        let stopped = || Status::internal("the log has stopped");
        let (answer, synced) = oneshot::channel();
        self.0.send(LogAppend { bytes, answer }).await.map_err(|_| stopped())?;
        synced.await.map_err(|_| stopped())
    }
}

fn preallocated(dir: &Path) -> std::io::Result<Box<dyn File>> {
    let file = OsFileSystem.create(&dir.join("ceiling.log"))?;
    // Write zeros instead of only reserving space: the first write to a reserved block is slower, because it is
    // journaled.
    let zeros = vec![0; 1 << 20];
    for start in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_at(&zeros, start as u64)?;
    }
    file.sync()?;
    OsFileSystem.sync_dir(dir)?;
    Ok(file)
}

/// Stops at the first error. Waiting callers notice it because their channels close.
fn commit(
    file: &dyn File,
    mut entries: mpsc::Receiver<LogAppend>,
    synced: &mpsc::UnboundedSender<(u64, Vec<oneshot::Sender<u64>>)>,
) {
    let mut group: Vec<u8> = Vec::with_capacity(GROUP_BYTES);
    let (mut position, mut seq) = (0, 0);
    while let Some(first) = entries.blocking_recv() {
        group.clear();
        let mut waiting = Vec::new();
        let mut next = Some(first);
        while let Some(LogAppend { bytes, answer }) = next {
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

struct CeilingServer {
    log: Option<CeilingLog>,
}

#[tonic::async_trait]
impl WriterStub for CeilingServer {
    async fn apply(&self, request: v1::ApplyRequest) -> std::result::Result<v1::ApplyResponse, Status> {
        let mut seq = 1;
        if let Some(log) = &self.log {
            let mut operations = request.operations.into_iter().map(bytes_of);
            let bytes = match operations.len() {
                1 => operations.next().unwrap_or_default(),
                _ => operations
                    .fold(BytesMut::new(), |mut all, one| {
                        all.extend_from_slice(&one);
                        all
                    })
                    .freeze(),
            };
            seq = log.append(bytes).await?;
        }
        let token = Some(v1::WriteToken {
            seq,
            time: Some(prost_types::Timestamp::default()),
            epoch: 1,
            incarnation: 0,
        });
        Ok(v1::ApplyResponse { token, replayed: false, made_keys: Vec::new() })
    }
}

/// The bytes of an operation that a log would contain.
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
    async fn an_acknowledged_append_is_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = std::sync::Arc::new(CeilingLog::open(dir.path()).unwrap());
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
