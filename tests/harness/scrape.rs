//! Daemons with metrics, and scrapers of them: HTTP as Prometheus speaks it, and a strict reader of both text formats.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Daemon;

pub const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";

/// A daemon with metrics.
#[derive(Debug)]
pub struct ScrapedDaemon {
    pub daemon: Daemon,
    /// The address of its metrics.
    pub metrics: String,
}

impl ScrapedDaemon {
    pub fn start(name: &str, data: &Path, args: &[&str]) -> ScrapedDaemon {
        let metrics = free_address();
        let daemon = Daemon::start(name, data, &[&["--metrics", metrics.as_str()], args].concat());
        ScrapedDaemon { daemon, metrics }
    }

    pub async fn scrape(&self) -> Scrape {
        let answer = get(&self.metrics, "/metrics", "text/plain").await;
        assert_eq!(answer.code, 200, "{answer:?}");
        Scrape::parse(&answer.body, false)
    }

    /// Waits until a scrape is as it must be, and returns it.
    pub async fn scrape_until(&self, what: &str, holds: impl Fn(&Scrape) -> bool) -> Scrape {
        for _ in 0..2000 {
            let scrape = self.scrape().await;
            if holds(&scrape) {
                return scrape;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("timed out waiting for {what}: {:#?}", self.scrape().await.series);
    }
}

/// An address of this machine on which nobody listens.
pub fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// An answer over HTTP.
#[derive(Debug)]
pub struct HttpAnswer {
    pub code: u16,
    pub content_type: String,
    pub body: String,
}

/// Asks for a path.
pub async fn get(address: &str, path: &str, accept: &str) -> HttpAnswer {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    send(address, &request).await.unwrap()
}

/// Sends a request. Fails if the connection ends without an answer.
pub async fn send(address: &str, request: &str) -> std::io::Result<HttpAnswer> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    let text = String::from_utf8(bytes).unwrap();
    let broken = || std::io::Error::new(std::io::ErrorKind::UnexpectedEof, format!("no answer: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(broken)?;
    let code = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).ok_or_else(broken)?;
    let content_type = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
    Ok(HttpAnswer { code, content_type: content_type.to_owned(), body: body.to_owned() })
}

type LabelSet = BTreeMap<String, String>;

/// What a scrape contains.
#[derive(Debug, Default)]
pub struct Scrape {
    /// The type and the help of each family, by name.
    pub families: BTreeMap<String, (String, String)>,
    /// The series by the names of their samples.
    pub series: BTreeMap<String, Vec<(LabelSet, f64)>>,
}

impl Scrape {
    /// Reads a text, and panics if it breaks a rule of its format.
    pub fn parse(text: &str, is_open_metrics: bool) -> Scrape {
        let mut scrape = Scrape::default();
        let mut family = String::new();
        let mut seen = BTreeSet::new();
        let lines = match is_open_metrics {
            true => text.strip_suffix("# EOF\n").expect("the text ends with # EOF"),
            false => text,
        };
        assert!(lines.ends_with('\n'));
        for line in lines.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let (kind, rest) = comment.split_once(' ').unwrap();
                let (name, rest) = rest.split_once(' ').unwrap();
                match kind {
                    "HELP" => {
                        let new = scrape.families.insert(name.to_owned(), (String::new(), rest.to_owned()));
                        assert_eq!(new, None, "{name} twice");
                        family = name.to_owned();
                    }
                    "TYPE" => scrape.families.get_mut(name).expect("help before type").0 = rest.to_owned(),
                    "UNIT" => assert!(is_open_metrics && name.ends_with(&format!("_{rest}")), "{line}"),
                    other => panic!("{other}: {line}"),
                }
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(seen.insert(series.to_owned()), "{series} twice");
            let (name, labels) = series.split_once('{').map_or((series, ""), |(name, rest)| (name, rest));
            let labels = labels_of(labels);
            let kind = &scrape.families.get(&family).expect("a family before its samples").0;
            let endings: &[&str] = match (kind.as_str(), is_open_metrics) {
                ("counter", true) => &["_total"],
                ("histogram", _) => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(endings.iter().any(|ending| name == format!("{family}{ending}")), "{name} in {family}");
            let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
            scrape.series.entry(name.to_owned()).or_default().push((labels, value));
        }
        scrape.check_histograms();
        scrape
    }

    /// The buckets of a histogram grow, and the last one has everything.
    fn check_histograms(&self) {
        for (name, _) in self.families.iter().filter(|(_, (kind, _))| kind == "histogram") {
            for (labels, count) in &self.series[&format!("{name}_count")] {
                let buckets = self.series[&format!("{name}_bucket")].iter().filter(|(of, _)| {
                    let mut of = of.clone();
                    of.remove("le");
                    of == *labels
                });
                let buckets: Vec<(f64, f64)> =
                    buckets.map(|(of, value)| (of["le"].parse().unwrap(), *value)).collect();
                assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name}: {buckets:?}");
                assert_eq!(buckets.last(), Some(&(f64::INFINITY, *count)), "{name}");
            }
        }
    }

    /// The sum of the series of a sample that have these labels. Panics if there is none.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels)
            .unwrap_or_else(|| panic!("no {name} {labels:?}: {:#?}", self.series.get(name)))
    }

    /// The same; `None` if there is none.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |of: &LabelSet| {
            labels.iter().all(|(name, value)| of.get(*name).is_some_and(|found| found == value))
        };
        let found: Vec<f64> =
            self.series.get(name)?.iter().filter(|(of, _)| has(of)).map(|(_, value)| *value).collect();
        (!found.is_empty()).then(|| found.iter().sum())
    }
}

/// `a="1",b="2"}`. No value of a test has a quote or a comma.
fn labels_of(text: &str) -> LabelSet {
    let pairs = text.trim_end_matches('}').split(',').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap();
        (name.to_owned(), value.trim_matches('"').to_owned())
    };
    pairs.map(pair).collect()
}
