//! A server that speaks as much of S3's protocol as DriftDB uses, keeps the objects in memory, and fails on demand.
//!
//! It has a thread and a runtime of its own: a test that blocks while a daemon starts must not keep that daemon from its bucket.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use driftdb_common::bucket::chunk::{Chunk, chunk_name, chunk_number};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

use super::{Daemon, binary};

/// The bucket's name and the prefix of the database.
const PLACE: &str = "drift/db";

/// What happens to requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// They are answered.
    Fair,
    /// They are refused with 503 and not done.
    Errors,
    /// They are not done, and get no answer; their connections break when the weather changes.
    Silent,
    /// They are done, and their connections break before the answer.
    Lossy,
}

/// A chunk of the log, and when the server had stored it.
#[derive(Debug, Clone)]
pub struct StoredChunk {
    pub chunk: Chunk,
    pub at: Instant,
}

#[derive(Debug, Default)]
struct S3Content {
    /// By name, with the bucket's name before it.
    objects: BTreeMap<String, (Bytes, Instant)>,
    /// Parts of uploads, by upload and number.
    parts: BTreeMap<(String, u32), Bytes>,
    uploads: u64,
    /// How many of the next parts are refused with 503.
    refused_parts: u32,
    /// Whether new files are refused with 403, and only the log is taken.
    refuses_files: bool,
}

/// The server. It ends when it is dropped.
pub struct S3Server {
    endpoint: String,
    content: Arc<Mutex<S3Content>>,
    weather: watch::Sender<Weather>,
    stop: Option<oneshot::Sender<()>>,
}

/// A request, whole.
struct S3Request {
    method: String,
    /// Without the first slash.
    name: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Bytes,
}

/// An answer: status, headers, body.
type S3Answer = (u16, Vec<(&'static str, String)>, Bytes);

impl S3Server {
    pub fn start() -> S3Server {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let content = Arc::new(Mutex::new(S3Content::default()));
        let (weather, seen) = watch::channel(Weather::Fair);
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&content);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                let accept = async {
                    while let Ok((stream, _)) = listener.accept().await {
                        tokio::spawn(serve(stream, Arc::clone(&shared), seen.clone()));
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
        });
        S3Server { endpoint, content, weather, stop: Some(stop) }
    }

    /// The URL of the database.
    pub fn url(&self) -> String {
        format!("s3://{PLACE}")
    }

    pub fn set_weather(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// A daemon or another program that finds this server.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(binary(program));
        command.envs([
            ("AWS_ENDPOINT", self.endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test-secret"),
        ]);
        command
    }

    /// Starts a daemon with this bucket.
    pub fn daemon(&self, name: &str, data: &std::path::Path, args: &[&str]) -> Daemon {
        let mut command = self.command(name);
        command.arg("--data").arg(data).args(["--listen", "127.0.0.1:0", "--log", "error"]);
        command.args(["--bucket", &self.url()]).args(args);
        Daemon::spawn(command).unwrap_or_else(|stderr| panic!("{name} does not start: {stderr}"))
    }

    /// Refuses as many of the next parts of uploads.
    pub fn refuse_parts(&self, parts: u32) {
        self.content().refused_parts = parts;
    }

    /// Refuses new files, and takes only the log; or takes both again.
    pub fn refuse_files(&self, refuses: bool) {
        self.content().refuses_files = refuses;
    }

    /// How many uploads in parts were begun, and how many refusals of parts are left.
    pub fn uploads(&self) -> (u64, u32) {
        let content = self.content();
        (content.uploads, content.refused_parts)
    }

    /// The number of the last chunk; 0 if there is none.
    pub fn last_chunk(&self) -> u64 {
        let content = self.content();
        let numbers = content.objects.keys().filter_map(|name| {
            let name = name.strip_prefix(PLACE)?.strip_prefix('/')?;
            chunk_number(name)
        });
        numbers.max().unwrap_or(0)
    }

    /// The chunks from a number on.
    pub fn chunks_from(&self, first: u64) -> Vec<StoredChunk> {
        let content = self.content();
        let found = (first..).map_while(|number| {
            let name = format!("{PLACE}/{}", chunk_name(number));
            let (bytes, at) = content.objects.get(&name)?;
            Some(StoredChunk { chunk: Chunk::decode(bytes, number, &name).unwrap(), at: *at })
        });
        found.collect()
    }

    fn content(&self) -> std::sync::MutexGuard<'_, S3Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // The thread may have ended.
        let _ = self.stop.take().map(|stop| stop.send(()));
    }
}

/// Answers the requests of one connection.
async fn serve(mut stream: TcpStream, content: Arc<Mutex<S3Content>>, mut weather: watch::Receiver<Weather>) {
    let mut read = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut read).await {
        let now = *weather.borrow_and_update();
        let answer = match now {
            Weather::Fair | Weather::Lossy => {
                content.lock().unwrap_or_else(PoisonError::into_inner).answer(&request)
            }
            Weather::Errors => (503, Vec::new(), Bytes::from_static(b"<Error><Code>SlowDown</Code></Error>")),
            Weather::Silent => {
                let _ = weather.changed().await;
                return;
            }
        };
        if now == Weather::Lossy || send(&mut stream, &request, answer).await.is_err() {
            return;
        }
    }
}

/// The next request; `None` at the end of the connection.
async fn read_request(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<S3Request> {
    let head = loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(read).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(read.drain(..head + 4).take(head).collect()).unwrap();
    let mut lines = text.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers: BTreeMap<String, String> =
        headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    assert!(!headers.contains_key("transfer-encoding"), "{text}");
    let length: usize = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    while read.len() < length {
        if stream.read_buf(read).await.ok()? == 0 {
            return None;
        }
    }
    let body = Bytes::from(read.drain(..length).collect::<Vec<_>>());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    });
    let name = decoded(path.trim_start_matches('/'));
    Some(S3Request { method, name, query: query.collect(), headers, body })
}

/// Decodes `%2F` and its like.
fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        out.push(u8::from_str_radix(&part[..2], 16).unwrap());
        out.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(out).unwrap()
}

async fn send(stream: &mut TcpStream, request: &S3Request, answer: S3Answer) -> std::io::Result<()> {
    let (code, headers, body) = answer;
    let mut text = format!("HTTP/1.1 {code} -\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n");
    if !headers.iter().any(|(name, _)| *name == "Content-Length") {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    if request.method != "HEAD" {
        bytes.extend_from_slice(&body);
    }
    stream.write_all(&bytes).await
}

fn status(code: u16) -> S3Answer {
    (code, Vec::new(), Bytes::new())
}

fn xml(text: String) -> S3Answer {
    (200, vec![("Content-Type", "application/xml".to_owned())], Bytes::from(text))
}

fn tag() -> (&'static str, String) {
    ("ETag", "\"tag\"".to_owned())
}

impl S3Content {
    fn answer(&mut self, request: &S3Request) -> S3Answer {
        let query = |name: &str| request.query.get(name);
        if self.refuses_files
            && request.method == "PUT"
            && request.name.starts_with(&format!("{PLACE}/files/"))
        {
            return status(403);
        }
        match (request.method.as_str(), query("uploadId")) {
            ("PUT", Some(upload)) => {
                let number = query("partNumber").unwrap().parse().unwrap();
                // Every second one is stored.
                if self.refused_parts > 0 && number % 2 == 0 {
                    self.refused_parts -= 1;
                    return status(503);
                }
                self.parts.insert((upload.clone(), number), request.body.clone());
                (200, vec![tag()], Bytes::new())
            }
            ("POST", Some(upload)) => {
                let parts = self.parts.extract_if(.., |(of, _), _| of == upload);
                let whole: Vec<u8> = parts.flat_map(|(_, bytes)| bytes.to_vec()).collect();
                self.put(&request.name, whole.into());
                xml("<CompleteMultipartUploadResult><ETag>\"tag\"</ETag></CompleteMultipartUploadResult>"
                    .to_owned())
            }
            ("DELETE", Some(upload)) => {
                self.parts.retain(|(of, _), _| of != upload);
                status(204)
            }
            ("POST", None) if query("uploads").is_some() => {
                self.uploads += 1;
                let id = self.uploads;
                xml(format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                ))
            }
            ("POST", None) if query("delete").is_some() => self.delete(request),
            ("PUT", None) => {
                if request.headers.contains_key("if-none-match") && self.objects.contains_key(&request.name) {
                    return status(412);
                }
                self.put(&request.name, request.body.clone());
                (200, vec![tag()], Bytes::new())
            }
            ("GET", None) if query("list-type").is_some() => self.list(request),
            ("GET" | "HEAD", None) => self.get(request),
            other => panic!("a request that this server does not know: {other:?} {}", request.name),
        }
    }

    fn put(&mut self, name: &str, bytes: Bytes) {
        self.objects.insert(name.to_owned(), (bytes, Instant::now()));
    }

    fn get(&self, request: &S3Request) -> S3Answer {
        let Some((bytes, _)) = self.objects.get(&request.name) else { return status(404) };
        let len = bytes.len();
        let modified = ("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT".to_owned());
        if request.method == "HEAD" {
            return (200, vec![("Content-Length", len.to_string()), tag(), modified], Bytes::new());
        }
        let Some(range) = request.headers.get("range") else {
            return (200, vec![tag(), modified], bytes.clone());
        };
        let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let (start, end) = (start.parse::<usize>().unwrap(), end.parse::<usize>().unwrap().min(len - 1) + 1);
        if start >= len {
            return status(416);
        }
        let part = ("Content-Range", format!("bytes {start}-{}/{len}", end - 1));
        (206, vec![part, tag(), modified], bytes.slice(start..end))
    }

    fn list(&self, request: &S3Request) -> S3Answer {
        let bucket = format!("{}/", request.name);
        let prefix = format!("{bucket}{}", request.query.get("prefix").map_or("", String::as_str));
        let mut text = "<ListBucketResult>".to_owned();
        for (name, (bytes, _)) in self.objects.iter().filter(|(name, _)| {
            let after = request.query.get("start-after").map_or("", String::as_str);
            name.starts_with(&prefix) && &name[bucket.len()..] > after
        }) {
            text.push_str(&format!(
                "<Contents><Key>{}</Key><Size>{}</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>",
                &name[bucket.len()..],
                bytes.len()
            ));
        }
        xml(text + "</ListBucketResult>")
    }

    fn delete(&mut self, request: &S3Request) -> S3Answer {
        let body = String::from_utf8(request.body.to_vec()).unwrap();
        let mut text = "<DeleteResult>".to_owned();
        for key in body.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>")) {
            self.objects.remove(&format!("{}/{}", request.name, key.0));
            text.push_str(&format!("<Deleted><Key>{}</Key></Deleted>", key.0));
        }
        xml(text + "</DeleteResult>")
    }
}
