//! Helpers for tests: run a command line in this process and capture its output.

use std::path::Path;

use driftdb::stub::{StubWriter, WriterStub};
use driftdb::v1::writer_service_server::WriterServiceServer;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

use crate::args::{self, Format, GivenOptions};
use crate::exit::CliResult;
use crate::render::Printer;
use crate::render::sink::Sink;

/// Runs a command line. Returns its result and its output.
pub(crate) async fn driftctl(args: &[&str]) -> (CliResult, String) {
    let matches = args::command().try_get_matches_from(["driftctl"].iter().chain(args)).unwrap();
    let (cli, given) = (args::from_matches(&matches).unwrap(), GivenOptions::of(&matches));
    args::check(&cli).unwrap();
    let sink = Sink::default();
    let mut output = Printer::new(Box::new(sink.clone()), cli.global.output.unwrap_or(Format::Jsonl));
    let outcome = Box::pin(crate::dispatch::dispatch(cli, &given, &mut output)).await;
    let outcome = match outcome {
        Ok(()) => output.finish(),
        Err(failure) => output.end_result().and(Err(failure)),
    };
    (outcome, sink.text())
}

/// Runs a command line on a directory, embedded. It must succeed. Returns its output.
pub(crate) async fn embedded(dir: &Path, args: &[&str]) -> String {
    let (outcome, text) = driftctl(&on(dir, args)).await;
    outcome.unwrap_or_else(|failure| panic!("{args:?}: {}", failure.text()));
    text
}

/// Runs a command line on a directory, embedded. It must fail. Returns the exit code and the message.
pub(crate) async fn refused(dir: &Path, args: &[&str]) -> (u8, String) {
    let (outcome, _) = driftctl(&on(dir, args)).await;
    let failure = outcome.unwrap_err();
    (failure.code(), failure.text())
}

fn on<'a>(dir: &'a Path, args: &[&'a str]) -> Vec<&'a str> {
    ["-d", dir.to_str().unwrap()].into_iter().chain(args.iter().copied()).collect()
}

/// Serves a stub writer on loopback until the end of the test. Returns its address.
pub(crate) async fn serve_writer(stub: impl WriterStub) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let service = WriterServiceServer::new(StubWriter(stub));
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}
