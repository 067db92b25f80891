//! `health`: asks the gRPC health service of daemons whether they are ready, for supervisors and scripts.

use std::time::Duration;

use driftdb::client::Credentials;
use driftdb::v1::reader_service_server::SERVICE_NAME as READER_SERVICE;
use driftdb::v1::writer_service_server::SERVICE_NAME as WRITER_SERVICE;
use driftdb_common::error::{Error, Reason};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::address::DaemonAddress;
use crate::args::{DEFAULT_READER, DEFAULT_WRITER, GlobalArgs, HealthArgs};
use crate::database::default_address;
use crate::errors::to_error;
use crate::exit::{CliResult, Failure};
use crate::render::Printer;
use crate::shapes;
use crate::token::token;

/// The pause between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(200);

/// A daemon to ask.
#[derive(Debug, Clone)]
struct AskedDaemon {
    role: &'static str,
    address: DaemonAddress,
    /// The service whose health is asked.
    service: &'static str,
}

/// What a daemon has answered.
#[derive(Debug, Serialize)]
struct DaemonAnswer {
    role: &'static str,
    url: String,
    /// `ready`, `not_ready`, or `unreachable`.
    state: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

/// Prints what each daemon answers, and fails unless all that must be ready are.
pub(crate) async fn run(args: HealthArgs, global: &GlobalArgs, out: &mut Printer) -> CliResult {
    if global.data.is_some() {
        let message = "health asks daemons, and a directory is none: name them with --writer and --reader";
        return Err(Failure::Usage(message.to_owned()));
    }
    let daemons = daemons(global, args.live);
    let deadline = args.wait.map(|wait| Instant::now() + wait);
    let answers = loop {
        // A daemon must not take longer than the user wants to wait.
        let left =
            deadline.map_or(args.timeout, |deadline| deadline.saturating_duration_since(Instant::now()));
        let answers = ask_all(&daemons, args.timeout.min(left.max(PAUSE))).await;
        let is_over = deadline.is_none_or(|deadline| Instant::now() + PAUSE >= deadline);
        if is_over || verdict(&answers).is_none() {
            break answers;
        }
        sleep(PAUSE).await;
    };
    for answer in &answers {
        out.print_record(&shapes::line(answer)?)?;
    }
    out.end_result()?;
    match verdict(&answers) {
        None => Ok(()),
        Some(answer) => out.finish_with(failure(answer)),
    }
}

/// The daemons that the options name; both at their default addresses if they name none.
fn daemons(global: &GlobalArgs, is_live: bool) -> Vec<AskedDaemon> {
    let tls = global.tls.client();
    let names_none = global.writer.is_empty() && global.reader.is_empty();
    let of = |role, given: &[String], default, service| {
        let usual = default_address(default, tls.is_some()).to_owned();
        let given = given.iter().filter(|url| !url.is_empty()).cloned();
        let urls: Vec<String> = if names_none { vec![usual] } else { given.collect() };
        let tls = tls.clone();
        urls.into_iter().map(move |url| AskedDaemon {
            role,
            address: DaemonAddress::new(url, tls.clone()),
            // The empty name is the process, whatever it can do just now.
            service: if is_live { "" } else { service },
        })
    };
    let writers = of("writer", &global.writer, DEFAULT_WRITER, WRITER_SERVICE);
    writers.chain(of("reader", &global.reader, DEFAULT_READER, READER_SERVICE)).collect()
}

/// Asks all daemons at the same time.
async fn ask_all(daemons: &[AskedDaemon], limit: Duration) -> Vec<DaemonAnswer> {
    let asked: Vec<_> = daemons.iter().map(|daemon| tokio::spawn(ask(daemon.clone(), limit))).collect();
    let mut answers = Vec::with_capacity(asked.len());
    for (daemon, answer) in daemons.iter().zip(asked) {
        let (state, error) = answer.await.unwrap_or_else(|e| ("unreachable", e.to_string()));
        answers.push(DaemonAnswer { role: daemon.role, url: daemon.address.url().to_owned(), state, error });
    }
    answers
}

async fn ask(daemon: AskedDaemon, limit: Duration) -> (&'static str, String) {
    let url = daemon.address.url().to_owned();
    let call = async {
        let channel = daemon.address.connect().await?;
        // Connecting has checked that the token may be sent there.
        let credentials = Credentials::new(token(), DEFAULT_WRITER);
        let mut client = HealthClient::with_interceptor(channel, credentials);
        let request = HealthCheckRequest { service: daemon.service.to_owned() };
        client.check(request).await.map_err(|status| to_error(&status))
    };
    let role = daemon.role;
    match timeout(limit, call).await {
        Err(_) => ("unreachable", format!("the {role} at {url} did not answer within {limit:?}")),
        Ok(Err(error)) if is_unreachable(&error) => ("unreachable", error.message().to_owned()),
        Ok(Err(error)) => ("not_ready", error.message().to_owned()),
        Ok(Ok(answer)) => match answer.into_inner().status() {
            ServingStatus::Serving => ("ready", String::new()),
            _ => ("not_ready", format!("the {role} at {url} is not ready")),
        },
    }
}

fn is_unreachable(error: &Error) -> bool {
    matches!(error.reason(), Reason::Unreachable | Reason::TlsFailed | Reason::TlsRequired)
}

/// The answer that is not as it should be; `None` if all is well. One active writer is enough, and every reader must be ready.
fn verdict(answers: &[DaemonAnswer]) -> Option<&DaemonAnswer> {
    let is_ready = |answer: &&DaemonAnswer| answer.state == "ready";
    let (writers, readers): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.role == "writer");
    if !writers.iter().any(is_ready)
        && let Some(writer) =
            writers.iter().find(|writer| writer.state == "not_ready").or(writers.first()).copied()
    {
        return Some(writer);
    }
    readers.into_iter().find(|reader| !is_ready(reader))
}

fn failure(answer: &DaemonAnswer) -> Failure {
    match answer.state {
        "unreachable" => Error::new(Reason::Unreachable, answer.error.clone()).into(),
        _ => Failure::NotReady(answer.error.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(role: &'static str, state: &'static str) -> DaemonAnswer {
        DaemonAnswer { role, url: "u".into(), state, error: "e".into() }
    }

    #[test]
    fn one_active_writer_is_enough_and_every_reader_must_be_ready() {
        for (answers, code) in [
            (&[("writer", "ready"), ("reader", "ready")][..], 0),
            (&[("writer", "not_ready"), ("writer", "ready")], 0),
            (&[("writer", "unreachable"), ("writer", "ready")], 0),
            (&[("writer", "unreachable"), ("writer", "not_ready")], 1),
            (&[("writer", "unreachable")], 3),
            (&[("reader", "ready"), ("reader", "not_ready")], 1),
            (&[("reader", "ready"), ("reader", "unreachable")], 3),
            (&[("writer", "ready"), ("reader", "not_ready")], 1),
        ] {
            let given: Vec<_> = answers.iter().map(|(role, state)| answer(role, state)).collect();
            assert_eq!(verdict(&given).map_or(0, |answer| failure(answer).code()), code, "{answers:?}");
        }
    }

    #[test]
    fn the_daemons_that_are_named_are_asked_and_no_others() {
        let named = |writer: &[&str], reader: &[&str]| {
            let urls = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect();
            let global = GlobalArgs { writer: urls(writer), reader: urls(reader), ..GlobalArgs::default() };
            let daemons = daemons(&global, false);
            daemons
                .iter()
                .map(|daemon| format!("{} {}", daemon.role, daemon.address.url()))
                .collect::<Vec<_>>()
        };
        assert_eq!(named(&[], &[]), [format!("writer {DEFAULT_WRITER}"), format!("reader {DEFAULT_READER}")]);
        assert_eq!(named(&["http://a"], &[]), ["writer http://a"]);
        assert_eq!(named(&[], &["http://b", "http://c"]), ["reader http://b", "reader http://c"]);
    }
}
