//! The right of a stream to go on: checked again when the rules change, and over when its token expires.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::Status;

use crate::error::{Error, Reason, Result};
use crate::planted::{PlantedBug, is_planted};
use crate::service::access::caller::{Caller, Credential, expired_token};
use crate::service::access::principal::Principal;
use crate::service::access::role::Role;
use crate::service::clock::now_ms;
use crate::service::server::response_stream::ResponseStream;
use crate::service::status::to_status;

/// How long a lease waits at most before it looks at the clock again, which may have been set.
const CLOCK_CHECK: Duration = Duration::from_secs(30);

/// What a stream, or another long call, needs as long as it lasts.
#[derive(Debug, Clone)]
pub enum LeaseNeeds {
    /// To be a principal of the rules.
    Principal,
    /// A role on each of some tables.
    Tables(Role, Vec<String>),
    /// To read every table that it could read at its start: the stream is about all of them.
    AllReadable,
    /// To administer the database.
    Administer,
    /// Each of several things.
    Each(Vec<LeaseNeeds>),
}

impl LeaseNeeds {
    /// Whether a principal has what is needed, that was `earlier` when the stream began.
    fn are_met(&self, now: &Principal, earlier: &Principal) -> bool {
        match self {
            LeaseNeeds::Principal => true,
            LeaseNeeds::Tables(role, tables) => {
                tables.iter().all(|table| now.role_on(table).is_some_and(|given| given >= *role))
            }
            LeaseNeeds::AllReadable => now.reads_all_that(earlier),
            LeaseNeeds::Administer => now.is_admin,
            LeaseNeeds::Each(needs) => needs.iter().all(|needs| needs.are_met(now, earlier)),
        }
    }
}

/// The right of one stream, or of another call that can be long.
#[derive(Debug, Clone)]
pub struct StreamLease {
    caller: Caller,
    needs: LeaseNeeds,
    /// `None` if the daemon does not ask who calls.
    versions: Option<watch::Receiver<u64>>,
}

impl StreamLease {
    /// The right of a stream that begins now. What it needs has been authorized.
    pub fn new(caller: &Caller, needs: LeaseNeeds) -> StreamLease {
        let versions = caller.principal().and_then(|_| caller.control().versions());
        StreamLease { caller: caller.clone(), needs, versions }
    }

    /// Changes what the stream needs from now on.
    pub fn set_needs(&mut self, needs: LeaseNeeds) {
        self.needs = needs;
    }

    /// Fails if the stream must end now.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` if the rules no longer allow it; `TOKEN_EXPIRED` if the time of its token is over.
    pub fn check(&self) -> Result<()> {
        let (Some(principal), Some(rules)) = (self.caller.principal(), self.caller.control().rules()) else {
            return Ok(());
        };
        if is_planted(PlantedBug::LeaseUnchecked) {
            return Ok(());
        }
        let ended = |why: &str| {
            let message = format!("the call was ended: {why}, as of the newest auth file");
            let error = Error::new(Reason::PermissionDenied, message);
            self.caller.control().audit().denied(&self.caller.audited("continue", &[]), &error);
            error
        };
        let Some(now) = rules.principal(&principal.name) else {
            return Err(ended("there is no such principal"));
        };
        match self.caller.credential() {
            Some(Credential::Token(hash)) => {
                let token = rules.token(hash).filter(|token| token.principal.name == now.name);
                if token.ok_or_else(|| ended("the token is not valid"))?.has_expired(now_ms()) {
                    return Err(expired_token());
                }
            }
            Some(Credential::Certificate(names)) => {
                rules
                    .of_certificate(names)
                    .filter(|of_it| of_it.name == now.name)
                    .ok_or_else(|| ended("the certificate is not the principal's"))?;
            }
            None => {}
        }
        match self.needs.are_met(now, principal) {
            true => Ok(()),
            false => Err(ended("the principal may not do this any more")),
        }
    }

    /// Waits until the stream must end. Never returns if the daemon does not ask who calls.
    pub async fn ended(&mut self) -> Error {
        loop {
            if let Err(error) = self.check() {
                return error;
            }
            let expiry = sleep_until_expiry(&self.caller);
            let Some(versions) = &mut self.versions else { return std::future::pending().await };
            tokio::select! {
                () = expiry => {}
                changed = versions.changed() => {
                    // The rules never change again: the daemon is ending, and ends its streams itself.
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                }
            }
        }
    }
}

/// Sleeps until the token of a caller may have expired.
async fn sleep_until_expiry(caller: &Caller) {
    let expires_ms = match (caller.credential(), caller.control().rules()) {
        (Some(Credential::Token(hash)), Some(rules)) => rules.token(hash).and_then(|token| token.expires_ms),
        _ => None,
    };
    match expires_ms {
        Some(at) => {
            let left = Duration::from_millis(at.saturating_sub(now_ms()).max(1));
            tokio::time::sleep(left.min(CLOCK_CHECK)).await;
        }
        None => std::future::pending().await,
    }
}

/// A stream that ends when its lease does, and whose errors its caller may see.
pub fn lease_stream<T: Send + 'static>(
    stream: ResponseStream<T>,
    caller: &Caller,
    needs: LeaseNeeds,
) -> ResponseStream<T> {
    if caller.principal().is_none() {
        return stream;
    }
    let mut lease = StreamLease::new(caller, needs);
    let ended = Box::pin(async move { lease.ended().await });
    Box::pin(LeasedStream { stream, caller: caller.clone(), ended, has_ended: false })
}

struct LeasedStream<T> {
    stream: ResponseStream<T>,
    caller: Caller,
    ended: Pin<Box<dyn Future<Output = Error> + Send>>,
    has_ended: bool,
}

impl<T> Stream for LeasedStream<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.has_ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(error) = this.ended.as_mut().poll(cx) {
            this.has_ended = true;
            return Poll::Ready(Some(Err(to_status(error))));
        }
        let item = this.stream.as_mut().poll_next(cx);
        item.map(|item| item.map(|item| item.map_err(|status| this.caller.redact(status))))
    }
}
