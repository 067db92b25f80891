//! systemd's notification protocol: a datagram of `NAME=value` lines to the socket that NOTIFY_SOCKET names.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::service::log_throttle::LogThrottle;

/// Sends notifications to the supervisor that started this process.
#[derive(Debug)]
pub(super) struct Notifier {
    socket: UnixDatagram,
    address: SocketAddr,
    failures: LogThrottle,
}

impl Notifier {
    /// The supervisor that the environment names. `None` if there is none, or none that can be reached: that the daemon runs is worth
    /// more than that its supervisor knows.
    pub(super) fn of_environment() -> Option<Notifier> {
        let name = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
        Notifier::open(&name)
            .inspect_err(|error| tracing::warn!(%error, "cannot notify the supervisor in NOTIFY_SOCKET"))
            .ok()
    }

    /// Opens a socket to an address: a path, or `@` and an abstract name.
    fn open(name: &OsStr) -> io::Result<Notifier> {
        let address = match name.as_bytes().split_first() {
            Some((b'@', rest)) => abstract_address(rest)?,
            Some((b'/', _)) => SocketAddr::from_pathname(name)?,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "neither a path nor an abstract name",
                ));
            }
        };
        let socket = UnixDatagram::unbound()?;
        // A supervisor that does not read must not stop the daemon.
        socket.set_nonblocking(true)?;
        Ok(Notifier { socket, address, failures: LogThrottle::new() })
    }

    /// Sends a notification. One that is lost is only logged.
    pub(super) fn send(&self, state: &str) {
        if let Err(error) = self.socket.send_to_addr(state.as_bytes(), &self.address)
            && let Some(left_out) = self.failures.pass()
        {
            tracing::warn!(%error, left_out, "cannot notify the supervisor");
        }
    }
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_: &[u8]) -> io::Result<SocketAddr> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "only Linux has abstract names of sockets"))
}

/// The time within which the supervisor wants to hear from this process again and again. `None` if it does not.
pub(super) fn watchdog_interval() -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    interval_of(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id())
}

fn interval_of(microseconds: Option<String>, process: Option<String>, own: u32) -> Option<Duration> {
    let is_meant = process.is_none_or(|process| process.parse() == Ok(own));
    let microseconds = microseconds?.parse().ok().filter(|microseconds| is_meant && *microseconds > 0)?;
    Some(Duration::from_micros(microseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_reaches_an_abstract_socket_and_a_path() {
        let name = format!("driftdb-notify-{}", uuid::Uuid::new_v4());
        let path = std::env::temp_dir().join(&name);
        let by_name = abstract_address(name.as_bytes()).unwrap();
        let sockets = [
            (UnixDatagram::bind_addr(&by_name).unwrap(), format!("@{name}")),
            (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
        ];
        for (socket, address) in sockets {
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            Notifier::open(OsStr::new(&address)).unwrap().send("READY=1\nSTATUS=x");
            let mut received = [0; 64];
            let length = socket.recv(&mut received).unwrap();
            assert_eq!(&received[..length], b"READY=1\nSTATUS=x", "{address}");
        }
        assert!(Notifier::open(OsStr::new("relative")).is_err());
        // Best effort: it is in the temporary directory.
        let _ = rustix::fs::unlink(&path);
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_it_names() {
        let interval = |time: &str, process: Option<&str>| {
            interval_of(Some(time.to_owned()), process.map(str::to_owned), 7)
        };
        assert_eq!(interval("3000000", None), Some(Duration::from_secs(3)));
        assert_eq!(interval("3000000", Some("7")), Some(Duration::from_secs(3)));
        assert_eq!(
            (interval("3000000", Some("8")), interval("0", None), interval("x", None)),
            (None, None, None)
        );
        assert_eq!(interval_of(None, None, 7), None);
    }
}
