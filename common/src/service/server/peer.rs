//! Who is at the other end of a connection: the address, and the certificate that was shown.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::error::{Error, Reason, Result};

/// Who is at the other end of a connection. Every request has it as an extension, as `Arc<Peer>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// The address; `None` inside this process.
    pub address: Option<IpAddr>,
    /// Whether the connection uses TLS.
    pub tls: bool,
    /// The certificate that the client has shown. A CA that the operator trusts has signed it.
    pub certificate: Option<Arc<PeerCertificate>>,
}

/// What a client's certificate says of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The common name of the subject; `None` if there is none, or more than one.
    pub common_name: Option<String>,
    /// The alternative names that are DNS names.
    pub dns_names: Vec<String>,
    /// The alternative names that are URIs.
    pub uris: Vec<String>,
    /// The alternative names that are e-mail addresses.
    pub emails: Vec<String>,
    /// The end of its validity.
    pub not_after: SystemTime,
}

impl PeerCertificate {
    /// Reads a certificate in DER.
    pub fn parse(der: &[u8]) -> Result<PeerCertificate> {
        let invalid = |what: &dyn std::fmt::Display| {
            Error::new(Reason::ArgumentInvalid, format!("cannot read a certificate: {what}"))
        };
        let (_, certificate) = X509Certificate::from_der(der).map_err(|e| invalid(&e))?;
        let mut common_names = certificate.subject().iter_common_name();
        let common_name = match (common_names.next(), common_names.next()) {
            (Some(only), None) => Some(only.as_str().map_err(|e| invalid(&e))?.to_owned()),
            // Which of several names counts would depend on who reads them.
            _ => None,
        };
        let mut names = PeerCertificate {
            common_name,
            dns_names: Vec::new(),
            uris: Vec::new(),
            emails: Vec::new(),
            not_after: time(certificate.validity().not_after.timestamp()),
        };
        let alternatives = certificate.subject_alternative_name().map_err(|e| invalid(&e))?;
        for name in alternatives.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => names.dns_names.push((*name).to_owned()),
                GeneralName::URI(name) => names.uris.push((*name).to_owned()),
                GeneralName::RFC822Name(name) => names.emails.push((*name).to_owned()),
                _ => {}
            }
        }
        Ok(names)
    }
}

/// The time so many seconds after 1970. An earlier one becomes 1970: it is over, too.
fn time(seconds: i64) -> SystemTime {
    let since_1970 = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    SystemTime::UNIX_EPOCH.checked_add(since_1970).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(common_names: &[&str], others: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["a.example".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for name in common_names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.subject_alt_names.extend(others);
        params.not_after = rcgen::date_time_ymd(2040, 1, 2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_tells_every_name_of_its_client() {
        let others = vec![
            SanType::URI("spiffe://example.org/billing".try_into().unwrap()),
            SanType::Rfc822Name("billing@example.org".try_into().unwrap()),
        ];
        let names = PeerCertificate::parse(&certificate(&["billing"], others)).unwrap();
        assert_eq!(
            names,
            PeerCertificate {
                common_name: Some("billing".to_owned()),
                dns_names: vec!["a.example".to_owned()],
                uris: vec!["spiffe://example.org/billing".to_owned()],
                emails: vec!["billing@example.org".to_owned()],
                not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(2_209_075_200),
            }
        );
        assert_eq!(PeerCertificate::parse(&certificate(&[], Vec::new())).unwrap().common_name, None);
    }

    #[test]
    fn no_cut_or_changed_certificate_panics() {
        let whole = certificate(&["billing"], Vec::new());
        for cut in 0..whole.len() {
            assert!(PeerCertificate::parse(&whole[..cut]).is_err());
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0xFF;
            // Whether it can be read does not matter: the signature does not hold.
            _ = PeerCertificate::parse(&changed);
        }
    }
}
