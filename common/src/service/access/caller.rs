//! The caller of one call: who it has proved to be, and what follows from that for names, ids and error texts.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, header};
use tonic::{Request, Status};
use tonic_types::StatusExt;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{CAUSE, Error, Reason, Result};
use crate::format::principal_text::{stored_actor, stored_id};
use crate::planted::{PlantedBug, is_planted};
use crate::service::access::audit::AuditedCall;
use crate::service::access::control::AccessControl;
use crate::service::access::principal::Principal;
use crate::service::access::role::Role;
use crate::service::access::token::TokenHash;
use crate::service::clock::now_ms;
use crate::service::log_throttle::LogThrottle;
use crate::service::server::peer::Peer;
use crate::service::status::{from_status, to_status};
use crate::table::operation::CommitOptions;

/// What the header `authorization` begins with.
const SCHEME: &str = "bearer ";
/// Lines about errors whose text was kept from their callers.
static REDACTED: LogThrottle = LogThrottle::new();

/// Who calls. Every request has it as an extension; a handler that does not look at it has no principal to act for.
#[derive(Debug, Clone)]
pub struct Caller(Arc<CallIdentity>);

#[derive(Debug)]
struct CallIdentity {
    control: Arc<AccessControl>,
    /// For the audit log only: nothing is decided by it.
    method: String,
    peer: Option<IpAddr>,
    who: Who,
}

#[derive(Debug)]
enum Who {
    /// The daemon does not ask.
    Everyone,
    /// Someone without a token and without a certificate that the rules know.
    Anonymous,
    /// A principal, as it is in the rules of the time of the call.
    Principal(Arc<Principal>, Credential),
}

/// How a principal has proved who it is.
#[derive(Debug, Clone)]
pub enum Credential {
    /// By a token.
    Token(TokenHash),
    /// By a certificate with these names, in the form of the auth file.
    Certificate(Vec<String>),
}

impl Caller {
    /// Finds out who calls.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` or `TOKEN_EXPIRED` if there is a token and it is not valid, whatever the certificate says.
    pub fn authenticate(
        control: &Arc<AccessControl>,
        headers: &HeaderMap,
        peer: Option<&Peer>,
        method: &str,
    ) -> Result<Caller> {
        let identity = |who| {
            let (control, method) = (Arc::clone(control), method.trim_start_matches('/').to_owned());
            Caller(Arc::new(CallIdentity { control, method, peer: peer.and_then(|peer| peer.address), who }))
        };
        let Some(rules) = control.rules() else { return Ok(identity(Who::Everyone)) };
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        if let Some(first) = given.next() {
            // Of two tokens, whatever stands before this daemon may have judged the other one.
            let token = if given.next().is_some() { Err(two_tokens()) } else { token_of(first.as_bytes()) };
            let judged = token.and_then(|token| {
                let hash = TokenHash::of(token);
                let known = rules.token(&hash).ok_or_else(unknown_token)?;
                let who = Who::Principal(Arc::clone(&known.principal), Credential::Token(hash));
                Ok((who, known.has_expired(now_ms())))
            });
            let (who, error) = match judged {
                Ok((who, false)) => return Ok(identity(who)),
                // The audit log says whose token it was.
                Ok((who, true)) => (who, expired_token()),
                Err(error) => (Who::Anonymous, error),
            };
            identity(who).record_failure(&error);
            return Err(error);
        }
        let names = peer.map(certificate_names).unwrap_or_default();
        Ok(identity(match rules.of_certificate(&names) {
            Some(principal) => Who::Principal(Arc::clone(principal), Credential::Certificate(names)),
            None => Who::Anonymous,
        }))
    }

    /// A caller at a daemon that does not ask who calls.
    pub fn everyone() -> Caller {
        let (control, method) = (Arc::default(), String::new());
        Caller(Arc::new(CallIdentity { control, method, peer: None, who: Who::Everyone }))
    }

    /// The caller of a request: a principal, or anyone if the daemon does not ask.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if the call has neither a token nor a certificate that the rules know.
    pub fn of<T>(request: &Request<T>) -> Result<Caller, Status> {
        Caller::in_extensions(request.extensions().get())
    }

    /// The caller in the extensions of a request, as [`Caller::of`] finds it.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if the call has neither a token nor a certificate that the rules know.
    pub fn in_extensions(found: Option<&Caller>) -> Result<Caller, Status> {
        let caller = found.ok_or_else(|| Status::internal("the server did not find out who calls"))?;
        caller.check_known().map_err(to_status)?;
        Ok(caller.clone())
    }

    /// Fails if the call has neither a token nor a certificate that the rules know.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`
    pub fn check_known(&self) -> Result<()> {
        if !matches!(self.0.who, Who::Anonymous) {
            return Ok(());
        }
        let message = "this daemon needs to know who calls: send a token (driftctl: --token-file or DRIFTDB_TOKEN_FILE), or use a \
                       client certificate that its auth file names for one principal";
        let error = Error::new(Reason::Unauthenticated, message);
        self.record_failure(&error);
        Err(error)
    }

    /// The same caller with what the newest rules let its principal do. One whom they do not name any more stays as it was: its
    /// [lease](super::lease) tells.
    #[must_use]
    pub fn renewed(&self) -> Caller {
        let (Who::Principal(principal, credential), Some(rules)) = (&self.0.who, self.0.control.rules())
        else {
            return self.clone();
        };
        let newest = rules.principal(&principal.name).filter(|newest| !Arc::ptr_eq(newest, principal));
        let Some(newest) = newest else { return self.clone() };
        Caller(Arc::new(CallIdentity {
            control: Arc::clone(&self.0.control),
            method: self.0.method.clone(),
            peer: self.0.peer,
            who: Who::Principal(Arc::clone(newest), credential.clone()),
        }))
    }

    fn record_failure(&self, error: &Error) {
        self.0.control.audit().authentication_failed(&self.audited("", &[]), error);
    }

    /// The call, for the audit log.
    pub(super) fn audited<'a>(&'a self, action: &'a str, tables: &'a [&'a str]) -> AuditedCall<'a> {
        let principal = self.principal().map(|principal| principal.name.as_str());
        AuditedCall { principal, peer: self.0.peer, method: &self.0.method, action, tables }
    }

    /// The rules, and the record of what they led to.
    pub(super) fn control(&self) -> &Arc<AccessControl> {
        &self.0.control
    }

    /// How the principal has proved who it is.
    pub(super) fn credential(&self) -> Option<&Credential> {
        match &self.0.who {
            Who::Principal(_, credential) => Some(credential),
            Who::Everyone | Who::Anonymous => None,
        }
    }

    /// The principal; `None` if the daemon does not ask who calls.
    pub fn principal(&self) -> Option<&Arc<Principal>> {
        match &self.0.who {
            Who::Principal(principal, _) => Some(principal),
            Who::Everyone | Who::Anonymous => None,
        }
    }

    /// The address and the name under which limits count this caller.
    pub fn peer_address(&self) -> Option<IpAddr> {
        self.0.peer
    }

    /// Whether the daemon does not ask who calls.
    pub fn is_everyone(&self) -> bool {
        matches!(self.0.who, Who::Everyone)
    }

    /// Whether the caller may see and do everything.
    pub fn is_admin(&self) -> bool {
        match &self.0.who {
            Who::Everyone => true,
            Who::Anonymous => false,
            Who::Principal(principal, _) => principal.is_admin,
        }
    }

    /// The caller's role on a table, whether that exists or not; `None` if there is no such table for this caller.
    pub fn role_on(&self, table: &str) -> Option<Role> {
        match &self.0.who {
            Who::Everyone => Some(Role::Admin),
            Who::Anonymous => None,
            Who::Principal(principal, _) => principal.role_on(table),
        }
    }

    /// Whether a table, if it exists, exists for this caller.
    pub fn may_see(&self, table: &str) -> bool {
        self.role_on(table).is_some()
    }

    /// Whether a list of tables names one for this caller.
    pub fn lists(&self, table: &str) -> bool {
        self.may_see(table) || is_planted(PlantedBug::HiddenTablesListed)
    }

    /// Makes the options of a commit those of this caller: with the actor and the scope of its ids.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` if the options name another actor, unless an administrator imports history.
    pub fn sign(&self, options: CommitOptions) -> Result<CommitOptions> {
        let Some(principal) = self.principal() else { return Ok(options) };
        let CommitOptions { actor, request_id, .. } = &options;
        let names_another = !actor.is_empty() && *actor != principal.name;
        if names_another && !principal.is_admin && !is_planted(PlantedBug::ActorBelieved) {
            let message = format!(
                "principal {:?} may not write as actor {actor:?}: the actor is the principal; leave it out, or ask a database \
                 administrator to import the history",
                principal.name
            );
            let error = Error::new(Reason::PermissionDenied, message);
            self.0.control.audit().denied(&self.audited("name an actor", &[]), &error);
            return Err(error);
        }
        let (actor, request_id) = (stored_actor(actor, Some(&principal.name)), self.scoped_id(request_id));
        Ok(CommitOptions { actor, request_id, ..options })
    }

    /// The form in which an id that this caller has chosen is remembered: the same id of another principal is another.
    pub fn scoped_id(&self, id: &str) -> String {
        if is_planted(PlantedBug::IdsUnscoped) {
            return id.to_owned();
        }
        stored_id(id, self.principal().map(|principal| principal.name.as_str()))
    }

    /// What a resume token or a page token says of the caller that it was made for; 0 without a principal.
    pub fn token_scope(&self) -> u64 {
        // Zero would mean that there was no principal.
        self.principal().map_or(0, |principal| xxh3_64(principal.name.as_bytes()).max(1))
    }

    /// Fails if a token was made for another principal, or for nobody, before the daemon asked who calls.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`
    pub fn check_token_scope(&self, scope: u64) -> Result<()> {
        let own = self.token_scope();
        if own == 0 || scope == own || is_planted(PlantedBug::TokensShared) {
            return Ok(());
        }
        let message = match scope {
            0 => "the resume or page token was made without authentication; start again without a token",
            _ => "the resume or page token was made for another principal; start again without a token",
        };
        let error = Error::new(Reason::PermissionDenied, message);
        self.0.control.audit().denied(&self.audited("resume", &[]), &error);
        Err(error)
    }

    /// What is wrong with a table, as this caller may see it: it can name files.
    pub fn redact_problem(&self, problem: &mut String) {
        if !problem.is_empty() && !self.is_admin() {
            *problem =
                "files of the table cannot be used; an administrator finds the cause in Status".to_owned();
        }
    }

    /// The error as this caller may see it: what is wrong with files, and what lies behind an error, may name tables that are not for it.
    pub fn redact(&self, status: Status) -> Status {
        if self.is_admin() {
            return status;
        }
        let error = from_status(&status);
        let general = match error.reason() {
            Reason::Corrupt => "files of the database are damaged",
            Reason::Io | Reason::Internal | Reason::FileGone => "the daemon failed to serve the call",
            Reason::DiskFull => "the disk of the database is full",
            Reason::WriterStopped => "the writer has stopped taking writes; this write was not done",
            Reason::OutcomeUnknown => "the write may or may not become visible; retry it with its request id",
            Reason::Overloaded if error.message().contains("snapshot") => {
                "too many changes wait for a snapshot; retry later"
            }
            Reason::Overloaded if error.message().contains("open files") => {
                "too many files are open; retry later"
            }
            _ => return without_cause(status),
        };
        if let Some(left_out) = REDACTED.pass() {
            tracing::warn!(method = self.0.method, %error, left_out, "an error whose text the caller must not see");
        }
        let redacted = Error::new(
            error.reason(),
            format!("{general}; an administrator finds the cause in the daemon's log"),
        );
        to_status(match error.retry_delay() {
            Some(delay) => redacted.retry_after(delay),
            None => redacted,
        })
    }
}

/// The token in the value of the header `authorization`.
fn token_of(value: &[u8]) -> Result<&str> {
    let invalid = || {
        let message = "the header `authorization` must be `Bearer` and a token";
        Error::new(Reason::Unauthenticated, message)
    };
    let text = std::str::from_utf8(value).map_err(|_| invalid())?;
    let (scheme, token) = text.split_at_checked(SCHEME.len()).ok_or_else(invalid)?;
    if scheme.eq_ignore_ascii_case(SCHEME) { Ok(token.trim()) } else { Err(invalid()) }
}

fn two_tokens() -> Error {
    Error::new(Reason::Unauthenticated, "the call has two headers `authorization`; send one token")
}

/// A status without what lies behind it.
fn without_cause(status: Status) -> Status {
    let Some((public, _)) = status.message().split_once(CAUSE) else { return status };
    // The details repeat the message.
    Status::with_error_details(status.code(), public, status.get_error_details())
}

fn unknown_token() -> Error {
    let message =
        "the token is not valid: it is unknown, or was revoked; check --token-file, or ask for a new one";
    Error::new(Reason::Unauthenticated, message)
}

/// The error of a token whose time is over.
pub(super) fn expired_token() -> Error {
    Error::new(
        Reason::TokenExpired,
        "the token has expired; get a new one, and continue with the last resume token",
    )
}

/// The names of a peer's certificate, in the form of the auth file.
fn certificate_names(peer: &Peer) -> Vec<String> {
    let Some(certificate) = &peer.certificate else { return Vec::new() };
    let kinds =
        [("URI:", &certificate.uris), ("DNS:", &certificate.dns_names), ("EMAIL:", &certificate.emails)];
    let alternatives =
        kinds.into_iter().flat_map(|(kind, names)| names.iter().map(move |name| format!("{kind}{name}")));
    alternatives.chain(certificate.common_name.iter().map(|name| format!("CN={name}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::access::auth_file;

    /// A caller of these rules.
    fn caller(rules: &str, name: &str) -> Caller {
        let rules = auth_file::parse(rules).unwrap();
        let who =
            Who::Principal(Arc::clone(rules.principal(name).unwrap()), Credential::Certificate(Vec::new()));
        let (control, method) = (Arc::default(), "WriterService/Apply".to_owned());
        Caller(Arc::new(CallIdentity { control, method, peer: None, who }))
    }

    #[test]
    fn what_lies_behind_an_error_is_for_administrators() {
        let rules = "[[principal]]\nname = \"ann\"\ngrants = [{ tables = [\"t\"], role = \"read\" }]\n\
                     [[principal]]\nname = \"root\"\nadmin = true\n";
        let (ann, root) = (caller(rules, "ann"), caller(rules, "root"));
        let lost = format!("the watch ends{CAUSE}table \"secret\" is another");
        let behind =
            format!("replica is behind: commit 7 is required{CAUSE}cannot open /data/tables/secret/1.seg");
        let too_many =
            "cannot open /data/tables/secret/1.seg: too many; retry later, or raise the limit of open files";
        for (reason, message) in [
            (Reason::ReplicaBehind, behind.as_str()),
            (Reason::EpochChanged, lost.as_str()),
            (Reason::Corrupt, "/data/tables/secret/1.seg: bad CRC"),
            (Reason::Io, "/data/tables/secret/1.seg: no such file"),
            (Reason::Overloaded, too_many),
        ] {
            let error = Error::new(reason, message)
                .with("seq", "7")
                .retry_after(std::time::Duration::from_millis(100));
            let status = to_status(error);
            assert!(format!("{:?}", root.redact(status.clone())).contains("secret"));
            let seen = ann.redact(status.clone());
            // The details repeat the message.
            assert!(!String::from_utf8_lossy(seen.details()).contains("secret"), "{message}");
            assert!(!seen.message().contains("secret"), "{message}");
            let back = from_status(&seen);
            assert_eq!((back.reason(), back.retry_delay()), (reason, from_status(&status).retry_delay()));
        }
        let kept = ann
            .redact(to_status(Error::new(Reason::ReplicaBehind, behind.as_str()).with("applied_seq", "6")));
        assert_eq!(kept.message(), "replica is behind: commit 7 is required");
        assert_eq!(kept.get_details_error_info().unwrap().metadata["applied_seq"], "6");
    }
}
