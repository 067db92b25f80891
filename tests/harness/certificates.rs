//! Certificates for tests: CAs, and servers and clients that they sign, as files.

#![expect(clippy::disallowed_methods, reason = "the tests write the files of an operator")]

use std::path::{Path, PathBuf};

use driftdb::client::ClientTls;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

/// A CA.
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, in PEM.
    pub pem: String,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl TestCa {
    /// A CA with a key of its own.
    pub fn new(name: &str) -> TestCa {
        let key = KeyPair::generate().unwrap();
        let mut params = params(name, &[], Duration::days(1));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        TestCa { issuer: Issuer::new(params, key), pem }
    }

    /// Writes the certificate of a server on this machine, and its key, as `{dir}/{stem}.pem` and `{dir}/{stem}-key.pem`.
    pub fn server(&self, dir: &Path, stem: &str, lasts: Duration) -> CertificateFiles {
        let mut params = params(stem, &["localhost", "127.0.0.1"], lasts);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(dir, stem, params)
    }

    /// Writes the certificate of a client, whose common name is `name`, and its key, as `{dir}/{name}.pem` and `{dir}/{name}-key.pem`. It
    /// expires after a time, which may be negative.
    pub fn client(&self, dir: &Path, name: &str, lasts: Duration) -> CertificateFiles {
        let mut params = params(name, &[], lasts);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(dir, name, params)
    }

    fn sign(&self, dir: &Path, stem: &str, params: CertificateParams) -> CertificateFiles {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        let files = CertificateFiles {
            certificate: dir.join(format!("{stem}.pem")),
            key: dir.join(format!("{stem}-key.pem")),
        };
        put(&files.certificate, &certificate);
        put(&files.key, &key.serialize_pem());
        files
    }
}

impl CertificateFiles {
    /// Takes the place of other files, one after the other, as an operator would copy them.
    pub fn replace(&self, others: &CertificateFiles) {
        for (from, to) in [(&self.certificate, &others.certificate), (&self.key, &others.key)] {
            put(to, &std::fs::read_to_string(from).unwrap());
        }
    }

    /// TLS of a client that shows this certificate.
    pub fn of_client(&self, ca: &Path) -> ClientTls {
        ClientTls::new(ca).with_identity(&self.certificate, &self.key)
    }
}

/// Writes a file of the operator, under another name first, so that nobody reads half of it.
pub fn put(path: &Path, text: &str) {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, text).unwrap();
    std::fs::rename(&partial, path).unwrap();
}

fn params(name: &str, names: &[&str], lasts: Duration) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::days(2);
    params.not_after = now + lasts;
    params
}
