//! How a daemon is protected on the network, as `status` shows it.

use driftdb::v1;
use driftdb_common::error::Result;
use serde::Serialize;

use crate::shapes;

/// How a daemon is protected.
#[derive(Serialize)]
pub(super) struct SecurityJson {
    tls: bool,
    client_certificates: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_not_after: Option<String>,
    handshakes_failed: u64,
    certificates_ended: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    warning: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
}

impl SecurityJson {
    /// What a daemon has answered.
    pub(super) fn new(found: v1::SecurityState) -> Result<SecurityJson> {
        let not_after = found.certificate_not_after.map(|time| shapes::time(Some(&time))).transpose()?;
        Ok(SecurityJson {
            tls: found.tls,
            client_certificates: found.client_certificates,
            certificate_not_after: not_after,
            handshakes_failed: found.handshakes_failed,
            certificates_ended: found.certificates_ended,
            warning: found.warning,
            problems: found.problems,
        })
    }

    /// Lines for people; none if connections are in clear text inside of this machine.
    pub(super) fn for_people(&self) -> String {
        let mut text = String::new();
        if let Some(until) = &self.certificate_not_after {
            let clients = if self.client_certificates { ", with certificates of clients" } else { "" };
            text += &format!("        TLS{clients}, its certificate is valid until {until}\n");
        }
        if !self.warning.is_empty() {
            text += &format!("        warning: {}\n", self.warning);
        }
        text.extend(self.problems.iter().map(|problem| format!("        {problem}\n")));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_what_is_protected_and_what_is_not() {
        let lines = |state| SecurityJson::new(state).unwrap().for_people();
        assert_eq!(lines(v1::SecurityState::default()), "");
        let state = v1::SecurityState {
            tls: true,
            client_certificates: true,
            certificate_not_after: Some(prost_types::Timestamp { seconds: 86_400, nanos: 0 }),
            problems: vec!["cannot reload".into()],
            warning: "listening on 0.0.0.0:1".into(),
            ..Default::default()
        };
        assert_eq!(
            lines(state),
            "        TLS, with certificates of clients, its certificate is valid until 1970-01-02T00:00:00.000Z\n        warning: listening on 0.0.0.0:1\n        cannot reload\n"
        );
    }
}
