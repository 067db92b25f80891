//! What security costs: W2 and R1 with client certificates and a token beside the same without.
//!
//! Each side has a store and daemons of its own, with the same history. They are measured in turns, and which side comes first
//! alternates: the speed of a machine varies over time.

use driftdb::client::{BearerToken, Credentials, reader_with, writer_with};
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::service::access::token::new_token;
use driftdb_common::storage::fs;
use tempfile::TempDir;
use tonic::transport::Channel;

use super::history::LoadedStore;
use super::history::queries::DatasetQuery;
use super::load::{Sample, channels, drive};
use super::report::BenchReport;
use super::setup::Bench;
use super::target::{DaemonSecurity, Served, Target};
use super::writes::RowWrites;
use crate::args::NewTokenArgs;
use crate::commands::cert;
use crate::commands::token::lines_for_file;
use crate::errors::to_error;
use crate::render;
use crate::token;

/// The principal of the token, and the common name of the client's certificate.
const PRINCIPAL: &str = "bench";
/// What the side without security is called in ratios.
const PLAIN: &str = "plain";

/// One side: its daemons, and how they are called.
struct Side {
    store: LoadedStore,
    credentials: Credentials,
    writers: Vec<Channel>,
    readers: Vec<Channel>,
    work: RowWrites,
}

/// What is measured on both sides.
#[derive(Debug, Clone, Copy)]
enum Measured {
    /// Durable writes of one event by this many clients.
    Writes(usize),
    /// Gets by this many clients.
    Gets(usize),
}

/// Measures both sides.
pub(super) async fn measure(bench: &Bench<'_>) -> Result<BenchReport> {
    if token::token().is_some() {
        let message = "bench --tls makes a token of its own; leave out --token-file, and DRIFTDB_TOKEN_FILE in the environment";
        return Err(Error::new(Reason::ArgumentInvalid, message));
    }
    let files = bench.target.fresh_dir()?;
    let (security, credentials) = secure(&files, &bench.target.table)?;
    let secured = Target::own(bench.args, Some(security))?;
    let sides = [
        Side::open(bench, &bench.target, Credentials::default()).await?,
        Side::open(bench, &secured, credentials).await?,
    ];
    let measured = [
        ("W2", Measured::Writes(bench.writers())),
        ("R1.c1", Measured::Gets(1)),
        ("R1", Measured::Gets(bench.readers())),
    ];
    let mut report = BenchReport::default();
    for run in 1..=bench.args.runs {
        for (phase, what) in measured {
            render::note(&format!("run {run} of {}: {phase}", bench.args.runs));
            let [plain, tls] = &sides;
            let (plain, tls) = if run % 2 == 1 {
                let plain = plain.measure(bench, what).await?;
                (plain, tls.measure(bench, what).await?)
            } else {
                let tls = tls.measure(bench, what).await?;
                (plain.measure(bench, what).await?, tls)
            };
            report.sample(&format!("{phase}.{PLAIN}"), &plain);
            report.sample(&format!("{phase}.tls"), &tls);
            report.ratio(&format!("{phase}.tls"), &tls, PLAIN, &plain);
        }
    }
    let [plain, tls] = sides;
    bench.target.clean_up(plain.close()).await?;
    secured.clean_up(tls.close()).await?;
    Ok(report)
}

/// Makes certificates, and a token that may do everything with a table. The loading of the history uses the token, too.
fn secure(dir: &TempDir, table: &str) -> Result<(DaemonSecurity, Credentials)> {
    let (mut options, tls) = cert::for_a_day(&dir.path().join("certs"), PRINCIPAL)?;
    let text = new_token()?;
    let args = NewTokenArgs {
        name: PRINCIPAL.to_owned(),
        out: None,
        expires: None,
        read: Vec::new(),
        write: Vec::new(),
        admin: vec![table.to_owned()],
        database_admin: false,
    };
    let rules = dir.path().join("auth.toml");
    fs::create_small_output(&rules, lines_for_file(&args, &text)?.as_bytes(), true)?;
    options.extend(["--auth-file".into(), rules.into()]);
    let token = BearerToken::new(&text).map_err(|status| to_error(&status))?;
    token::set(token.clone());
    // Only to addresses of these daemons, which use TLS.
    Ok((DaemonSecurity { options, tls }, Credentials::new(Some(token), "https://localhost")))
}

impl Side {
    async fn open(bench: &Bench<'_>, target: &Target, credentials: Credentials) -> Result<Side> {
        let events = bench.args.history.first().copied().unwrap_or(1_000_000);
        render::note(&format!("loading {events} events"));
        let store = LoadedStore::load_unmeasured(target, events, &mut BenchReport::default()).await?;
        let (writers, readers) =
            (channels(&store.served.writer).await?, channels(&store.served.reader).await?);
        let work = RowWrites::new(std::slice::from_ref(&target.table), 0)?;
        Ok(Side { store, credentials, writers, readers, work })
    }

    async fn measure(&self, bench: &Bench<'_>, what: Measured) -> Result<Sample> {
        let (time, servers) = (bench.time(), self.store.served.processes());
        match what {
            Measured::Writes(clients) => {
                let writers = self.writers.iter().cycle().take(clients);
                let writers = writers.map(|channel| writer_with(channel.clone(), self.credentials.clone()));
                drive(self.work.clients_on(writers), time, &servers).await
            }
            Measured::Gets(clients) => {
                let readers = self.readers.iter().cycle().take(clients);
                let readers = readers.map(|channel| reader_with(channel.clone(), self.credentials.clone()));
                drive(self.store.queries.clients_on(readers, DatasetQuery::Get), time, &servers).await
            }
        }
    }

    /// Closes the connections, so that the daemons can end.
    fn close(self) -> Served {
        self.store.served
    }
}
