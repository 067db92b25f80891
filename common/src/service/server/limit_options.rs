//! The limits of a server that its operator can set.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;

use crate::limits;
use crate::service::options::parse_duration;

/// What clients may take of a server, as far as that can be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerLimits {
    /// The calls of one client in a second; `None` for any number.
    pub calls_per_second: Option<NonZeroU32>,
    /// The watches of one client.
    pub watches_per_client: usize,
    /// The age at which a connection is told to end; `None` for never.
    pub connection_age: Option<Duration>,
    /// The time that its calls have from then on.
    pub connection_grace: Duration,
}

impl Default for ServerLimits {
    fn default() -> ServerLimits {
        ServerLimits {
            calls_per_second: None,
            watches_per_client: limits::WATCHES_PER_CLIENT,
            connection_age: None,
            connection_grace: Duration::from_secs(limits::CONNECTION_GRACE_SECS),
        }
    }
}

/// The options for limits on clients.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits on clients")]
pub struct LimitArgs {
    /// Calls that one client may begin in a second; 0 for any number
    ///
    /// A client is a principal, or an address if there is no --auth-file. Calls over it fail at once with OVERLOADED and a delay;
    /// a client that was silent may begin as many at once. Health checks do not count. Set it if one client can crowd out the
    /// others.
    #[arg(long, env = "DRIFTDB_CALLS_PER_SECOND", default_value_t = 0, value_name = "N")]
    pub calls_per_second: u32,
    /// Age at which a connection is told to end; `off` for never
    ///
    /// Plus or minus a tenth, so that clients do not come back all at once. A client then opens a new connection, without a
    /// failed call. Set it to spread clients over new daemons, or to have changed certificates checked again.
    #[arg(
        long,
        env = "DRIFTDB_MAX_CONNECTION_AGE",
        default_value = "off",
        value_name = "TIME",
        value_parser = parse_connection_age
    )]
    pub max_connection_age: ConnectionAgeLimit,
    /// Time that calls have to end once their connection has reached its greatest age
    ///
    /// Watches and other streams that are still open then end with SHUTTING_DOWN, and clients resume them.
    #[arg(
        long,
        env = "DRIFTDB_CONNECTION_GRACE",
        default_value = "30s",
        value_name = "TIME",
        value_parser = parse_duration
    )]
    pub connection_grace: Duration,
}

/// The greatest age of a connection; `None` for any age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionAgeLimit(Option<Duration>);

fn parse_connection_age(text: &str) -> Result<ConnectionAgeLimit, String> {
    match text.trim() {
        "off" | "0" => Ok(ConnectionAgeLimit(None)),
        text => match parse_duration(text)? {
            age if age.is_zero() => Ok(ConnectionAgeLimit(None)),
            age if age < Duration::from_secs(1) => Err("must be at least 1s, or off".to_owned()),
            age => Ok(ConnectionAgeLimit(Some(age))),
        },
    }
}

impl LimitArgs {
    /// The limits that the options describe.
    pub fn limits(&self) -> ServerLimits {
        ServerLimits {
            calls_per_second: NonZeroU32::new(self.calls_per_second),
            connection_age: self.max_connection_age.0,
            connection_grace: self.connection_grace,
            ..ServerLimits::default()
        }
    }
}
