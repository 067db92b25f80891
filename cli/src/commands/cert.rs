//! `cert`: makes certificates for daemons and a client, signed by a CA of their own.

use std::ffi::OsString;
use std::path::Path;

use driftdb::client::ClientTls;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::storage::fs::{self, FileSystem, OsFileSystem};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use crate::args::{CertArgs, CertCommand, NewCertArgs};
use crate::exit::CliResult;
use crate::render;

/// The names of this machine, which are in every server certificate.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// How far certificates reach back, for machines whose clocks are behind.
const CLOCK_SKEW: Duration = Duration::hours(1);

/// The files of `cert new`.
const CA: &str = "ca.pem";
const CA_KEY: &str = "ca-key.pem";
const SERVER: &str = "server.pem";
const SERVER_KEY: &str = "server-key.pem";
const CLIENT: &str = "client.pem";
const CLIENT_KEY: &str = "client-key.pem";

/// Makes the certificates and prints how to use them.
pub(crate) fn run(args: &CertArgs) -> CliResult {
    let CertCommand::New(args) = &args.command;
    let hosts = hosts(&args.hosts);
    create(args, &hosts)?;
    render::note(&instructions(args, &hosts));
    Ok(())
}

fn create(args: &NewCertArgs, hosts: &[String]) -> Result<()> {
    let files = make(args, hosts).map_err(|e| {
        Error::new(Reason::ArgumentInvalid, format!("cannot make certificates for {}: {e}", hosts.join(", ")))
    })?;
    write(&args.dir, &files)
}

/// Makes certificates for daemons and a client on this machine, which count for a day. Returns the options of the daemons, and TLS of the
/// client.
pub(crate) fn for_a_day(dir: &Path, client: &str) -> Result<(Vec<OsString>, ClientTls)> {
    let args = NewCertArgs { dir: dir.to_owned(), hosts: Vec::new(), client: client.to_owned(), days: 1 };
    create(&args, &hosts(&[]))?;
    let path = |name: &str| dir.join(name);
    let options = [("--tls-cert", SERVER), ("--tls-key", SERVER_KEY), ("--tls-client-ca", CA)];
    let options = options.into_iter().flat_map(|(option, name)| [option.into(), path(name).into()]).collect();
    Ok((options, ClientTls::new(path(CA)).with_identity(path(CLIENT), path(CLIENT_KEY))))
}

/// A file to write.
struct CertificateFile {
    name: &'static str,
    pem: String,
    /// Whether only the user may read it.
    is_private: bool,
}

/// The names of the server certificate, each once.
fn hosts(given: &[String]) -> Vec<String> {
    let mut hosts: Vec<String> = Vec::new();
    for host in LOCAL_NAMES.into_iter().chain(given.iter().map(String::as_str)) {
        if !hosts.iter().any(|known| known == host) {
            hosts.push(host.to_owned());
        }
    }
    hosts
}

fn make(args: &NewCertArgs, hosts: &[String]) -> Result<Vec<CertificateFile>, rcgen::Error> {
    let (ca_key, server_key, client_key) = (KeyPair::generate()?, KeyPair::generate()?, KeyPair::generate()?);
    // Two CAs of one name could not be told apart, by people and by programs.
    let id = uuid::Uuid::new_v4().simple().to_string();
    let name = format!("DriftDB CA {}", id.get(..8).unwrap_or_default());
    let mut ca = params(Vec::new(), &name, args.days)?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let mut server = params(hosts.to_vec(), "DriftDB server", args.days)?;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut client = params(Vec::new(), &args.client, args.days)?;
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];

    let public = |name, certificate: &rcgen::Certificate| CertificateFile {
        name,
        pem: certificate.pem(),
        is_private: false,
    };
    let private = |name, key: &KeyPair| CertificateFile { name, pem: key.serialize_pem(), is_private: true };
    let mut files = vec![
        public(CA, &ca.self_signed(&ca_key)?),
        private(CA_KEY, &ca_key),
        private(SERVER_KEY, &server_key),
        private(CLIENT_KEY, &client_key),
    ];
    let issuer = Issuer::new(ca, ca_key);
    for (name, mut params, key) in [(SERVER, server, &server_key), (CLIENT, client, &client_key)] {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        files.push(public(name, &params.signed_by(key, &issuer)?));
    }
    Ok(files)
}

/// What all three certificates have in common.
fn params(names: Vec<String>, common_name: &str, days: u16) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + Duration::days(days.into());
    Ok(params)
}

/// Writes all files, or none if one of them exists.
fn write(dir: &Path, files: &[CertificateFile]) -> Result<()> {
    let failed = |e| Error::io(format_args!("cannot create the directory {}", dir.display()), &e);
    OsFileSystem.create_dir(dir).map_err(failed)?;
    let present = OsFileSystem
        .list(dir)
        .map_err(|e| Error::io(format_args!("cannot list the directory {}", dir.display()), &e))?;
    if let Some(file) = files.iter().find(|file| present.iter().any(|name| name == file.name)) {
        let message = format!(
            "cannot create {}: the file exists; name another directory, or remove it",
            dir.join(file.name).display()
        );
        return Err(Error::new(Reason::ArgumentInvalid, message));
    }
    files.iter().try_for_each(|file| {
        fs::create_small_output(&dir.join(file.name), file.pem.as_bytes(), file.is_private)
    })
}

fn instructions(args: &NewCertArgs, hosts: &[String]) -> String {
    let path = |name: &str| args.dir.join(name).display().to_string();
    let (ca, server, client) = (path(CA), path(SERVER), path(CLIENT));
    let (server_key, client_key) = (path(SERVER_KEY), path(CLIENT_KEY));
    let daemon = format!("--tls-cert {server} --tls-key {server_key} --tls-client-ca {ca}");
    format!(
        "wrote certificates for {days} days: {ca} (a CA), {server} (for {hosts}), {client} (for the client {name:?}), and \
         their keys. To start the daemons with them:\n  \
         driftdb-writer --data ./mydata {daemon}\n  \
         driftdb-reader --data ./mydata {daemon}\n\
         To connect:\n  \
         driftctl --tls-ca {ca} --tls-cert {client} --tls-key {client_key} status\n\
         Or once for all commands of a shell:\n  \
         export DRIFTDB_TLS_CA={ca} DRIFTDB_TLS_CLIENT_CERT={client} DRIFTDB_TLS_CLIENT_KEY={client_key}\n\
         Keep the keys secret, above all {ca_key}: it makes certificates that the daemons accept.",
        days = args.days,
        hosts = hosts.join(", "),
        name = args.client,
        ca_key = path(CA_KEY),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_in_the_certificate_once() {
        let given = ["db1", "localhost", "10.0.0.7", "db1"].map(str::to_owned);
        assert_eq!(hosts(&given), ["localhost", "127.0.0.1", "::1", "db1", "10.0.0.7"]);
    }

    #[test]
    fn files_are_private_where_they_must_be_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("certs");
        let args = NewCertArgs { dir: dir.clone(), hosts: Vec::new(), client: "billing".to_owned(), days: 1 };
        let command = CertArgs { command: CertCommand::New(args) };
        run(&command).unwrap();
        let mut names = OsFileSystem.list(&dir).unwrap();
        names.sort();
        assert_eq!(names, [CA_KEY, CA, CLIENT_KEY, CLIENT, SERVER_KEY, SERVER]);
        for name in names {
            use std::os::unix::fs::PermissionsExt;
            let others = dir.join(&name).metadata().unwrap().permissions().mode() & 0o077;
            assert!(!name.ends_with("-key.pem") || others == 0, "{name}: {others:o}");
        }
        let text = run(&command).unwrap_err().text();
        assert!(text.contains("ca.pem: the file exists; name another directory"), "{text}");
        assert_eq!(OsFileSystem.list(&dir).unwrap().len(), 6);
    }
}
