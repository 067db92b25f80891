//! Who may call what: every method of the API, health and reflection, by every kind of caller.
//!
//! The methods come from the descriptors, so a new one fails here until it has a rule.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{Buf, BufMut};
use driftdb::v1;
use prost::Message;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::harness::access::{SecuredCluster, driftctl, expiring_principal, principal, token_of};
use crate::harness::{connect, insert, reason};

/// What a method needs. A method with several uses has a row for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: anyone may ask.
    Nothing,
    /// To be a principal.
    Principal,
    Read,
    Write,
    /// To create a table: also who may not see it learns nothing from the refusal.
    Create,
    Admin,
    Database,
    /// The same, of a call that no caller can succeed with here, because what it asks for is not valid.
    DatabaseArgument,
}

/// Callers, and what their token or their grants are. `t*` are the tables of the calls.
pub const CALLERS: [&str; 8] = ["none", "bad", "expired", "elsewhere", "read", "write", "owner", "root"];

/// What a call of a caller must come to: `ok`, or the reason of the refusal.
pub fn expected(need: Need, caller: &str) -> &'static str {
    const DENIED: &str = "PERMISSION_DENIED";
    match (caller, need) {
        ("root", Need::DatabaseArgument) => "ARGUMENT_INVALID",
        ("none", Need::Nothing) => "ok",
        ("none" | "bad", _) => "UNAUTHENTICATED",
        ("expired", _) => "TOKEN_EXPIRED",
        (_, Need::Nothing | Need::Principal) | ("root", _) => "ok",
        (_, Need::Database | Need::DatabaseArgument) => DENIED,
        ("elsewhere", Need::Create) => DENIED,
        ("elsewhere", _) => "TABLE_NOT_FOUND",
        ("owner", _) | ("write", Need::Read | Need::Write) | ("read", Need::Read) => "ok",
        _ => DENIED,
    }
}

/// One use of a method.
struct Row {
    /// `driftdb.v1.ReaderService/Get`.
    method: &'static str,
    what: &'static str,
    need: Need,
    /// The message, for a caller.
    message: Box<MessageOf>,
}

/// The bytes of a message, for a caller.
type MessageOf = dyn Fn(&str) -> Vec<u8>;

fn row<M: Message>(
    method: &'static str,
    what: &'static str,
    need: Need,
    message: impl Fn(&str) -> M + 'static,
) -> Row {
    Row { method, what, need, message: Box::new(move |caller| message(caller).encode_to_vec()) }
}

fn writer_rows() -> Vec<Row> {
    let execute = |what: &'static str, need, statement: fn(&str) -> String| {
        row("driftdb.v1.WriterService/Execute", what, need, move |caller| v1::WriterServiceExecuteRequest {
            statement: statement(caller),
            ..Default::default()
        })
    };
    let put = |caller: &str| insert("t", format!(r#"{{"id":"{caller} {}"}}"#, uuid()));
    let precondition = || v1::Precondition {
        table: "t".into(),
        key: "k".into(),
        check: Some(v1::precondition::Check::Exists(true)),
        ..Default::default()
    };
    vec![
        row("driftdb.v1.WriterService/CreateTable", "", Need::Create, |caller| v1::CreateTableRequest {
            table: format!("t_new_{caller}"),
            ..Default::default()
        }),
        row("driftdb.v1.WriterService/AlterTable", "", Need::Admin, |caller| v1::AlterTableRequest {
            table: "t".into(),
            add_indexes: vec![format!("i_{caller}")],
            ..Default::default()
        }),
        row("driftdb.v1.WriterService/DropTable", "", Need::Admin, |caller| v1::DropTableRequest {
            table: format!("t_drop_{caller}"),
            ..Default::default()
        }),
        row("driftdb.v1.WriterService/Apply", "rows", Need::Write, move |caller| v1::ApplyRequest {
            operations: vec![put(caller)],
            ..Default::default()
        }),
        row("driftdb.v1.WriterService/Apply", "precondition", Need::Write, move |caller| v1::ApplyRequest {
            operations: vec![put(caller)],
            preconditions: vec![precondition()],
            ..Default::default()
        }),
        row("driftdb.v1.WriterService/Ingest", "", Need::Write, move |caller| v1::IngestRequest {
            batch_id: 1,
            operations: vec![put(caller)],
            ..Default::default()
        }),
        execute("insert", Need::Write, |caller| format!(r#"INSERT INTO t {{"id":"{caller} {}"}}"#, uuid())),
        execute("patch where", Need::Write, |_| r#"PATCH t SET {"n":1} WHERE id = "k""#.into()),
        execute("dry run", Need::Write, |_| r#"SOFT DELETE FROM t WHERE id = "k" DRY RUN"#.into()),
        execute("revert", Need::Write, |_| r#"REVERT t KEY "k" TO @seq:2"#.into()),
        execute("create", Need::Create, |caller| format!("CREATE TABLE t_made_{caller} (pk=id)")),
        execute("index", Need::Admin, |caller| format!("CREATE INDEX ON t (j_{caller})")),
        execute("retain", Need::Admin, |_| "ALTER TABLE t RETAIN FOREVER".into()),
        execute("drop", Need::Admin, |caller| format!("DROP TABLE t_gone_{caller}")),
        execute("snapshot", Need::Admin, |_| "SNAPSHOT t".into()),
        execute("compact", Need::Admin, |_| "COMPACT t DRY RUN".into()),
        execute("verify", Need::Admin, |_| "VERIFY t".into()),
        execute("verify all", Need::Database, |_| "VERIFY".into()),
        row("driftdb.v1.WriterService/Snapshot", "", Need::Admin, |_| v1::SnapshotRequest {
            table: "t".into(),
        }),
        row("driftdb.v1.WriterService/Compact", "", Need::Admin, |_| v1::CompactRequest {
            table: "t".into(),
            dry_run: true,
            ..Default::default()
        }),
        row("driftdb.v1.WriterService/Verify", "", Need::Admin, |_| v1::VerifyRequest {
            table: "t".into(),
            deep: false,
        }),
        row("driftdb.v1.WriterService/Verify", "all", Need::Database, |_| v1::VerifyRequest::default()),
        row("driftdb.v1.WriterService/Backup", "no bucket", Need::DatabaseArgument, |_| {
            v1::BackupRequest::default()
        }),
        row("driftdb.v1.WriterService/FindCommit", "", Need::Principal, |caller| v1::FindCommitRequest {
            made_by: Some(v1::find_commit_request::MadeBy::RequestId(format!("of {caller}"))),
        }),
        row("driftdb.v1.WriterService/ConfirmClock", "", Need::Database, |_| {
            v1::ConfirmClockRequest::default()
        }),
        row("driftdb.v1.WriterService/Status", "", Need::Principal, |_| v1::WriterServiceStatusRequest {}),
    ]
}

fn reader_rows() -> Vec<Row> {
    let execute = |what: &'static str, need, statement: &'static str| {
        row("driftdb.v1.ReaderService/Execute", what, need, move |_| v1::ReaderServiceExecuteRequest {
            statement: statement.into(),
            ..Default::default()
        })
    };
    let table = || "t".to_owned();
    vec![
        row("driftdb.v1.ReaderService/Get", "", Need::Read, move |_| v1::GetRequest {
            table: table(),
            keys: vec!["k".into()],
            ..Default::default()
        }),
        row("driftdb.v1.ReaderService/Select", "", Need::Read, move |_| v1::SelectRequest {
            table: table(),
            ..Default::default()
        }),
        row("driftdb.v1.ReaderService/History", "", Need::Read, move |_| v1::HistoryRequest {
            table: table(),
            with_before: true,
            ..Default::default()
        }),
        row("driftdb.v1.ReaderService/Diff", "", Need::Read, move |_| v1::DiffRequest {
            table: table(),
            start: Some(v1::AsOf::seq(2)),
            ..Default::default()
        }),
        row("driftdb.v1.ReaderService/WatchDrift", "a table", Need::Read, move |_| v1::WatchDriftRequest {
            tables: vec![table()],
            initial_rows: true,
            ..Default::default()
        }),
        row("driftdb.v1.ReaderService/WatchDrift", "all", Need::Principal, |_| {
            v1::WatchDriftRequest::default()
        }),
        row("driftdb.v1.ReaderService/ListTables", "", Need::Principal, |_| v1::ListTablesRequest::default()),
        row("driftdb.v1.ReaderService/DescribeTable", "", Need::Read, move |_| v1::DescribeTableRequest {
            table: table(),
            ..Default::default()
        }),
        row("driftdb.v1.ReaderService/Status", "", Need::Principal, |_| v1::ReaderServiceStatusRequest {}),
        execute("select", Need::Read, "SELECT * FROM t"),
        execute("every", Need::Read, "SELECT COUNT(*) FROM t AS OF EVERY 1 SEQS FROM @seq:2 TO @seq:3"),
        execute("explain", Need::Read, "EXPLAIN SELECT * FROM t"),
        execute("drift", Need::Read, "SHOW DRIFT t"),
        execute("find", Need::Read, r#"FIND FIRST IN t WHERE id = "k""#),
        execute("diff", Need::Read, "SHOW DIFF t FROM @seq:2 TO @now"),
        execute("describe", Need::Read, "DESCRIBE t"),
        execute("tables", Need::Principal, "SHOW TABLES"),
    ]
}

/// The rows of the services that both daemons have.
fn common_rows(service: &'static str) -> Vec<Row> {
    use tonic_health::pb::HealthCheckRequest;
    let health = |method, what, need, service: &'static str| {
        row(method, what, need, move |_| HealthCheckRequest { service: service.into() })
    };
    let list = |_: &str| {
        use tonic_reflection::pb::v1::ServerReflectionRequest;
        use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
        // Both versions have the same messages.
        ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        }
    };
    vec![
        health("grpc.health.v1.Health/Check", "whole", Need::Nothing, ""),
        health("grpc.health.v1.Health/Check", "service", Need::Principal, service),
        health("grpc.health.v1.Health/Watch", "whole", Need::Nothing, ""),
        health("grpc.health.v1.Health/Watch", "service", Need::Principal, service),
        row("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "", Need::Principal, list),
        row("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "", Need::Principal, list),
    ]
}

/// Every method that the daemons serve, by its path.
fn methods_of_descriptors() -> BTreeSet<String> {
    let sets = [
        driftdb::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut methods = BTreeSet::new();
    for set in sets {
        let set = prost_types::FileDescriptorSet::decode(set).unwrap();
        for file in &set.file {
            for service in &file.service {
                let names = service.method.iter();
                methods.extend(
                    names.map(|method| format!("{}.{}/{}", file.package(), service.name(), method.name())),
                );
            }
        }
    }
    methods
}

/// Sends and receives messages as bytes.
#[derive(Debug, Clone, Copy, Default)]
struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = BytesCodec;
    type Decoder = BytesCodec;

    fn encoder(&mut self) -> BytesCodec {
        BytesCodec
    }

    fn decoder(&mut self) -> BytesCodec {
        BytesCodec
    }
}

impl Encoder for BytesCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut item = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut item);
        Ok(Some(item))
    }
}

/// Calls a method with one message. Returns its first answer, or the refusal. An operation that Ingest refuses is a refusal.
async fn call(channel: &Channel, method: &str, message: Vec<u8>, token: Option<&str>) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let mut request = Request::new(tokio_stream::once(message));
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let path = format!("/{method}").parse().unwrap();
    let mut answers = grpc.streaming(request, path, BytesCodec).await?.into_inner();
    let mut first = None;
    // A statement that writes nothing may have no answer, and a job's first answers are its progress.
    while let Some(answer) = timeout(Duration::from_secs(30), answers.message()).await.unwrap()? {
        first.get_or_insert(answer);
        if method.ends_with("/WatchDrift") || method.contains("Health/Watch") {
            break;
        }
    }
    if method.ends_with("/Ingest")
        && let Ok(answer) = v1::IngestResponse::decode(first.unwrap_or_default().as_slice())
        && let Some(refused) = answer.errors.into_iter().next()
    {
        assert_eq!(refused.reason, "TABLE_NOT_FOUND");
        return Err(Status::new(Code::from(refused.code), refused.reason));
    }
    Ok(())
}

fn uuid() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// What a call came to: `ok` or a reason.
fn outcome(answered: Result<(), Status>) -> String {
    match answered {
        Ok(()) => "ok".to_owned(),
        Err(status) if !reason(&status).is_empty() => reason(&status),
        // A refused operation of Ingest.
        Err(status) if status.code() == Code::NotFound => status.message().to_owned(),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    }
}

/// The callers, as principals.
pub fn principals() -> Vec<String> {
    vec![
        expiring_principal("expired", "admin", "2020-01-01T00:00:00Z"),
        principal("elsewhere", "read other, write other, admin other"),
        principal("read", "read t*"),
        principal("write", "write t*"),
        principal("owner", "admin t*"),
    ]
}

/// Creates the tables of the calls.
pub async fn fill(cluster: &SecuredCluster) {
    let dropped: Vec<String> =
        CALLERS.iter().flat_map(|caller| [format!("t_drop_{caller}"), format!("t_gone_{caller}")]).collect();
    let tables: Vec<&str> = ["t", "other"].into_iter().chain(dropped.iter().map(String::as_str)).collect();
    cluster.fill(&tables).await;
}

async fn secured() -> SecuredCluster {
    let cluster = SecuredCluster::start(&principals());
    fill(&cluster).await;
    cluster
}

/// Calls every method of both daemons as every caller, and prints the outcomes. Returns the methods, and what was not as expected.
pub async fn matrix(
    title: &str,
    (writer, reader): (&Channel, &Channel),
    expected: impl Fn(Need, &str) -> &'static str,
) -> (BTreeSet<String>, Vec<String>) {
    let daemons = [
        ("writer", writer, [writer_rows(), common_rows("driftdb.v1.WriterService")]),
        ("reader", reader, [reader_rows(), common_rows("driftdb.v1.ReaderService")]),
    ];
    let (mut ruled, mut wrong) = (BTreeSet::new(), Vec::new());
    let mut table =
        vec![format!("{title:<44} {:<14} {}", "use", CALLERS.map(|c| format!("{c:<18}")).concat())];
    for (daemon, channel, rows) in daemons {
        for Row { method, what, need, message } in rows.iter().flatten() {
            ruled.insert((*method).to_owned());
            let mut cells = String::new();
            for caller in CALLERS {
                let token = match caller {
                    "none" => None,
                    "bad" => Some("driftdb_of_nobody".to_owned()),
                    name => Some(token_of(name)),
                };
                let found = outcome(call(channel, method, message(caller), token.as_deref()).await);
                let expected = expected(*need, caller);
                if found != expected {
                    wrong.push(format!(
                        "{daemon} {method} {what} as {caller}: expected {expected}, found {found}"
                    ));
                }
                cells += &format!("{found:<18}");
            }
            let method = method.trim_start_matches("driftdb.v1.").trim_start_matches("grpc.");
            table.push(format!("{method:<44.44} {what:<14} {cells}"));
        }
    }
    println!("{}", table.join("\n"));
    (ruled, wrong)
}

#[tokio::test]
async fn every_method_has_a_rule_and_every_caller_gets_what_it_says() {
    let cluster = secured().await;
    let (writer, reader) = (connect(&cluster.writer.url).await, connect(&cluster.reader.url).await);
    let (ruled, wrong) = matrix("without TLS", (&writer, &reader), expected).await;
    assert_eq!(ruled, methods_of_descriptors(), "a method without a rule, or a rule without a method");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn driftctl_reports_what_a_caller_may_not_do() {
    let cluster = secured().await;
    let commands: [(&[&str], Need); 8] = [
        (&["get", "t", "k"], Need::Read),
        (&["select", "t"], Need::Read),
        (&["drift", "t", "k"], Need::Read),
        (&["sql", r#"PATCH t KEY "k" SET {"n": 2}"#], Need::Write),
        (&["snapshot", "t"], Need::Admin),
        (&["compact", "t", "--dry-run"], Need::Admin),
        (&["verify"], Need::Database),
        (&["clock", "confirm"], Need::Database),
    ];
    let mut wrong = BTreeMap::new();
    for (command, need) in commands {
        for caller in ["none", "expired", "elsewhere", "read", "write", "owner", "root"] {
            let name = Some(caller).filter(|name| *name != "none");
            let (code, _, stderr) = driftctl(&cluster, name, command);
            let expected = expected(need, caller);
            let is_right = match expected {
                "ok" => code == 0,
                "TABLE_NOT_FOUND" => code == 4 && stderr.contains(expected),
                _ => code == 1 && stderr.contains(expected),
            };
            if !is_right {
                wrong.insert(
                    format!("{command:?} as {caller}"),
                    format!("expected {expected}: {code} {stderr}"),
                );
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
