//! The address of a database in one text, the same as of the clients in Python and Node:
//! `driftdb://WRITER,READER[,READER…][?OPTION=VALUE&…]`, or `driftdbs://` with TLS.

use std::path::PathBuf;
use std::time::Duration;

use tonic::Status;

use super::credentials::{BearerToken, Credentials};
use super::handle::{Client, ClientOptions};
use super::reasons::invalid;
use super::tls::{ClientIdentity, ClientTls};

/// The ports if an address names none.
const WRITER_PORT: &str = "7401";
const READER_PORT: &str = "7402";

/// What an address says.
#[derive(Debug)]
struct ParsedAddress {
    writers: Vec<String>,
    readers: Vec<String>,
    options: ClientOptions,
}

impl Client {
    /// Creates a client of the database at an address. It connects when a call needs it.
    ///
    /// The first host is the writer, the others are readers, each HOST or HOST:PORT; a single host without a port is both.
    /// `driftdbs://` uses TLS. The options are `standby=HOST:PORT` (another writer, any number of times), `ca=FILE` (required with
    /// TLS), `cert=FILE` and `key=FILE`, `server_name=NAME`, `token_file=FILE`, `time_zone=NAME` (of conditions
    /// and statements), `stale=true`, `retry_timeout=SECONDS` and `timeout=SECONDS`. [`ClientOptions`] describes them.
    ///
    /// The file of the token is read here, on the calling thread, and only here; certificates are read by a thread that may block, for each
    /// connection. If the token is on storage that can hang, such as a network mount, open the client before the runtime starts, or inside
    /// [`tokio::task::spawn_blocking`]; to replace the token later, see [`Client::set_token`].
    ///
    /// ```
    /// use driftdb::client::Client;
    ///
    /// let client = Client::open("driftdb://db1:7401,db2,db3?standby=db2:7401")?;
    /// assert_eq!(client.writers().collect::<Vec<_>>(), ["http://db1:7401", "http://db2:7401"]);
    /// assert_eq!(client.readers().collect::<Vec<_>>(), ["http://db2:7402", "http://db3:7402"]);
    /// # Ok::<(), tonic::Status>(())
    /// ```
    ///
    /// # Errors
    /// `ARGUMENT_INVALID` if the address is wrong, or its token file cannot be read, or its token would be sent where others can read it.
    pub fn open(address: &str) -> Result<Client, Status> {
        Client::open_with(ClientOptions::default(), address)
    }

    /// Like [`Client::open`], with options. Those in the address take precedence.
    ///
    /// # Errors
    /// As [`Client::open`].
    pub fn open_with(options: ClientOptions, address: &str) -> Result<Client, Status> {
        let ParsedAddress { writers, readers, options } = parse(options, address)?;
        for host in writers.iter().chain(&readers) {
            let scheme = if options.tls.is_some() { "https" } else { "http" };
            Credentials::new(options.token.clone(), &format!("{scheme}://{host}")).check()?;
        }
        Ok(Client::with(options, writers, readers))
    }
}

fn parse(options: ClientOptions, address: &str) -> Result<ParsedAddress, Status> {
    let wrong = |why: &str| invalid(format!("{address:?} is not an address: {why}"));
    let (is_tls, rest) = match address.split_once("://") {
        Some(("driftdb", rest)) => (false, rest),
        Some(("driftdbs", rest)) => (true, rest),
        _ => return Err(wrong("it must begin with driftdb:// or driftdbs://")),
    };
    let (hosts, query) = rest.split_once('?').unwrap_or((rest, ""));
    let hosts: Vec<&str> = hosts.trim_end_matches('/').split(',').map(str::trim).collect();
    if hosts.iter().any(|host| host.is_empty()) {
        return Err(wrong("a host is missing; for example driftdb://writer:7401,reader:7402"));
    }
    let mut parsed = ParsedAddress { writers: Vec::new(), readers: Vec::new(), options };
    for (position, host) in hosts.iter().enumerate() {
        let is_both = hosts.len() == 1 && port(host).is_none();
        if position == 0 {
            parsed.writers.push(with_port(host, WRITER_PORT)?);
        }
        if position > 0 || is_both {
            parsed.readers.push(with_port(host, READER_PORT)?);
        }
    }
    let mut tls = TlsTexts::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        set(&mut parsed, &mut tls, name, decoded(value)?)?;
    }
    tls.apply(is_tls, &mut parsed.options)?;
    Ok(parsed)
}

/// The options about TLS, as they are in the address.
#[derive(Debug, Default)]
struct TlsTexts {
    ca: String,
    certificate: String,
    key: String,
    server_name: String,
}

impl TlsTexts {
    fn apply(self, is_tls: bool, options: &mut ClientOptions) -> Result<(), Status> {
        let TlsTexts { ca, certificate, key, server_name } = self;
        if !is_tls {
            if [&ca, &certificate, &key, &server_name].iter().any(|text| !text.is_empty()) {
                return Err(invalid(
                    "the options ca, cert, key and server_name need TLS: use driftdbs://".to_owned(),
                ));
            }
            options.tls = None;
            return Ok(());
        }
        if certificate.is_empty() != key.is_empty() {
            return Err(invalid("a certificate needs its key: give both cert=FILE and key=FILE".to_owned()));
        }
        if !ca.is_empty() {
            options.tls = Some(ClientTls::new(ca));
        }
        let Some(tls) = &mut options.tls else {
            let message = "driftdbs:// needs ca=FILE with the certificates of the CAs to trust, for example ca.pem of `driftctl cert new`";
            return Err(invalid(message.to_owned()));
        };
        if !certificate.is_empty() {
            let (certificate, key) = (PathBuf::from(certificate), PathBuf::from(key));
            tls.identity = Some(ClientIdentity { certificate, key });
        }
        if !server_name.is_empty() {
            tls.server_name = Some(server_name);
        }
        Ok(())
    }
}

fn set(parsed: &mut ParsedAddress, tls: &mut TlsTexts, name: &str, value: String) -> Result<(), Status> {
    let options = &mut parsed.options;
    match name {
        "standby" => parsed.writers.push(with_port(&value, WRITER_PORT)?),
        "ca" => tls.ca = value,
        "cert" => tls.certificate = value,
        "key" => tls.key = value,
        "server_name" => tls.server_name = value,
        "token_file" => options.token = Some(BearerToken::new(&read(&value)?)?),
        "time_zone" => options.time_zone = value,
        "stale" => {
            let stale = value.parse();
            options.stale =
                stale.map_err(|_| invalid(format!("stale must be true or false; got {value:?}")))?;
        }
        "retry_timeout" => options.retry_timeout = seconds(name, &value)?,
        "timeout" => {
            let timeout = seconds(name, &value)?;
            if timeout.is_zero() {
                return Err(invalid(format!("timeout must be a number of seconds above 0; got {value:?}")));
            }
            options.timeout = Some(timeout);
        }
        "token" => {
            return Err(invalid(
                "a token is no part of an address, which others can see: use token_file".to_owned(),
            ));
        }
        _ => {
            let known =
                "standby, ca, cert, key, server_name, token_file, time_zone, stale, retry_timeout, timeout";
            return Err(invalid(format!("an address has no option {name:?}; its options are {known}")));
        }
    }
    Ok(())
}

/// A time in seconds, in digits.
fn seconds(name: &str, value: &str) -> Result<Duration, Status> {
    let digits = Some(value).filter(|value| value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'));
    let seconds = digits.and_then(|digits| digits.parse().ok());
    let seconds = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| invalid(format!("{name} must be a number of seconds; got {value:?}")))
}

#[expect(clippy::disallowed_methods, reason = "a client is no part of a daemon: it reads its own files")]
fn read(path: &str) -> Result<String, Status> {
    std::fs::read_to_string(path).map_err(|e| invalid(format!("cannot read the token file {path:?}: {e}")))
}

/// The text after the colon of a host, which can be an IPv6 address in brackets.
fn port(host: &str) -> Option<&str> {
    let after_brackets = host.rsplit(']').next().unwrap_or(host);
    after_brackets.rsplit_once(':').map(|(_, port)| port)
}

fn with_port(host: &str, default: &str) -> Result<String, Status> {
    match port(host) {
        None => Ok(format!("{host}:{default}")),
        Some(port)
            if port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0) =>
        {
            Ok(host.to_owned())
        }
        Some(_) => Err(invalid(format!("{host:?} has no valid port: it must be from 1 to 65535"))),
    }
}

/// A value without percent-encoding.
fn decoded(text: &str) -> Result<String, Status> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let value = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        bytes.push(value.ok_or_else(|| invalid(format!("{text:?} has a % without two hexadecimal digits")))?);
    }
    String::from_utf8(bytes).map_err(|_| invalid(format!("{text:?} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_decoded_and_checked() {
        let parsed = parse(
            ClientOptions::default(),
            "driftdbs://w,r?ca=a%20b.pem&cert=c.pem&key=k.pem&server_name=db.example.org&stale=true&retry_timeout=1.5&time_zone=Europe/Berlin",
        )
        .unwrap();
        let tls =
            ClientTls::new("a b.pem").with_identity("c.pem", "k.pem").with_server_name("db.example.org");
        assert_eq!(parsed.options.tls, Some(tls));
        assert!(parsed.options.stale);
        assert_eq!(parsed.options.retry_timeout, Duration::from_millis(1500));
        assert_eq!(parsed.options.time_zone, "Europe/Berlin");
        for wrong in ["ca=%4", "ca=%zz", "retry_timeout=x", "retry_timeout=-1", "token_file=/does/not/exist"]
        {
            assert!(parse(ClientOptions::default(), &format!("driftdbs://w,r?{wrong}")).is_err(), "{wrong}");
        }
    }
}
