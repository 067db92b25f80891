//! Choosing among readers, against readers that answer as a test wants it.

use std::pin::Pin;
use std::result::Result;

use driftdb::v1;
use driftdb::v1::reader_service_server::{ReaderService, ReaderServiceServer};
use driftdb_common::error::{Error, Reason};
use driftdb_common::service::status::to_status;
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::{Client, Reader};

/// A reader whose Get and Select fail for a reason, or answer with its applied seq.
struct Fake(Result<u64, Reason>);

impl Fake {
    async fn serve(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = tonic::transport::Server::builder().add_service(ReaderServiceServer::new(self));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    fn header(&self) -> Result<Option<v1::ReadHeader>, Status> {
        let header = |applied_seq| Some(v1::ReadHeader { applied_seq, ..Default::default() });
        self.0.map(header).map_err(|reason| to_status(Error::new(reason, "as the test wants it")))
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn not_asked<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("no test asks for this"))
}

#[tonic::async_trait]
impl ReaderService for Fake {
    type SelectStream = Answers<v1::SelectResponse>;
    type HistoryStream = Answers<v1::HistoryResponse>;
    type DiffStream = Answers<v1::DiffResponse>;
    type WatchDriftStream = Answers<v1::WatchDriftResponse>;
    type ExecuteStream = Answers<v1::ReaderServiceExecuteResponse>;

    async fn get(&self, _: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        Ok(Response::new(v1::GetResponse { header: self.header()?, ..Default::default() }))
    }

    /// Fails in its first message, not before it.
    async fn select(&self, _: Request<v1::SelectRequest>) -> Result<Response<Self::SelectStream>, Status> {
        let first = self.header().map(|header| v1::SelectResponse { header, ..Default::default() });
        Ok(Response::new(Box::pin(tokio_stream::iter([first]))))
    }

    async fn history(&self, _: Request<v1::HistoryRequest>) -> Result<Response<Self::HistoryStream>, Status> {
        not_asked()
    }

    async fn diff(&self, _: Request<v1::DiffRequest>) -> Result<Response<Self::DiffStream>, Status> {
        not_asked()
    }

    async fn watch_drift(
        &self,
        _: Request<v1::WatchDriftRequest>,
    ) -> Result<Response<Self::WatchDriftStream>, Status> {
        not_asked()
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

async fn client(readers: Vec<Result<u64, Reason>>) -> Client {
    let mut addresses = vec!["http://127.0.0.1:1".to_owned()];
    for reader in readers {
        addresses.push(Fake(reader).serve().await);
    }
    Client::remote(Vec::new(), addresses)
}

async fn get(client: &mut Client) -> Result<u64, Reason> {
    let call = async |mut reader: Reader| reader.get(v1::GetRequest::default()).await;
    let answer = client.read(call).await.map_err(|e| e.reason())?;
    Ok(answer.into_inner().header.unwrap().applied_seq)
}

async fn select(client: &mut Client) -> Result<u64, Reason> {
    let call = async |mut reader: Reader| reader.select(v1::SelectRequest::default()).await;
    let mut answers = client.read_stream(call).await.map_err(|e| e.reason())?;
    let first = answers.next().await.unwrap().unwrap();
    assert!(answers.next().await.unwrap().is_none());
    Ok(first.header.unwrap().applied_seq)
}

/// The first address of every client here is one where nobody listens.
#[tokio::test]
async fn the_next_reader_is_asked_where_one_is_away_or_behind() {
    use Reason::{BelowFloor, ReplicaBehind, ShuttingDown, Unreachable};
    for (readers, expected) in [
        (vec![], Err(Unreachable)),
        (vec![Ok(7), Ok(8)], Ok(7)),
        (vec![Err(ReplicaBehind), Ok(8)], Ok(8)),
        (vec![Err(ShuttingDown), Err(ReplicaBehind), Ok(9)], Ok(9)),
        (vec![Err(ReplicaBehind), Err(ShuttingDown)], Err(ReplicaBehind)),
        // What one reader refuses, all refuse.
        (vec![Err(BelowFloor), Ok(8)], Err(BelowFloor)),
    ] {
        let mut client = client(readers.clone()).await;
        assert_eq!(get(&mut client).await, expected, "{readers:?}");
        assert_eq!(select(&mut client).await, expected, "{readers:?}");
    }
}

#[test]
fn addresses_may_leave_out_their_scheme() {
    let given = ["a:1", "https://b:2", ""].map(str::to_owned);
    assert_eq!(super::addresses(&given, "x"), ["http://a:1", "https://b:2"]);
    assert_eq!(super::addresses(&[], "http://x"), ["http://x"]);
}
