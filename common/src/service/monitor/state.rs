//! The monitor itself: what the parts of a daemon tell it, and what it knows for those who ask.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::error::Result;
use crate::metrics::catalog::{self, DaemonKind};
use crate::metrics::samples::Samples;
use crate::metrics::{self, ExpositionFormat};
use crate::service::monitor::notify::Notifier;
use crate::service::monitor::process;
use crate::vital;

/// A daemon that is open, as its monitor sees it.
pub trait MonitoredDaemon: Send + Sync {
    /// Reads the metrics that are not counted where they happen. May block for a moment, on locks that are held for a moment.
    fn sample(&self, samples: &mut Samples);

    /// Fails, with the reason, if the daemon does not work any more, and only a new start can help. A disk or a network that does not
    /// answer is no such case. Blocks for a bounded time.
    fn check_alive(&self) -> Result<()>;
}

/// Reads some metrics.
type Sampler = Box<dyn Fn(&mut Samples) + Send + Sync>;

/// The monitor of a daemon. Clones share it. A default one is asked by nobody.
#[derive(Clone, Default)]
pub struct Monitor(Arc<MonitorState>);

#[derive(Default)]
struct MonitorState {
    kind: Option<DaemonKind>,
    started_at: Option<SystemTime>,
    notifier: Option<Notifier>,
    phase: Mutex<DaemonPhase>,
    daemon: Mutex<Option<Arc<dyn MonitoredDaemon>>>,
    server: Mutex<Option<Sampler>>,
    /// Whether the supervisor knows that the daemon is started.
    is_started: AtomicBool,
}

/// What a daemon does.
#[derive(Debug, Clone, Default)]
pub(super) enum DaemonPhase {
    /// Opens its database.
    #[default]
    Opening,
    /// Waits for something.
    Waiting(String),
    /// Serves. Whether health reports SERVING.
    Serving(watch::Receiver<bool>),
    /// Ends.
    Stopping,
}

impl DaemonPhase {
    /// Whether health reports SERVING for the daemon's service.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self, DaemonPhase::Serving(ready) if *ready.borrow())
    }

    /// Whether the daemon serves its database, ready or not: of several writers, the one that calls must reach.
    pub(super) fn is_active(&self) -> bool {
        matches!(self, DaemonPhase::Serving(_))
    }
}

impl fmt::Display for DaemonPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DaemonPhase::Opening => f.write_str("opening the database"),
            DaemonPhase::Waiting(what) => write!(f, "waiting: {what}"),
            DaemonPhase::Serving(ready) if *ready.borrow() => f.write_str("ready"),
            DaemonPhase::Serving(_) => f.write_str("serving, but not ready: Status says why"),
            DaemonPhase::Stopping => f.write_str("shutting down"),
        }
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").field("phase", &*self.0.phase.lock()).finish_non_exhaustive()
    }
}

impl Monitor {
    /// The monitor of this process.
    pub(super) fn of_process(kind: DaemonKind) -> Monitor {
        Monitor(Arc::new(MonitorState {
            kind: Some(kind),
            started_at: Some(SystemTime::now()),
            notifier: Notifier::of_environment(),
            ..MonitorState::default()
        }))
    }

    /// The daemon waits for something before it can open its database, such as a lock.
    pub fn wait_for(&self, what: &str) {
        *self.0.phase.lock() = DaemonPhase::Waiting(what.to_owned());
        self.notify_status();
    }

    /// What shows the metrics and whether the daemon is alive while it waits, until it serves.
    pub fn watch_waiting(&self, waiting: Arc<dyn MonitoredDaemon>) {
        *self.0.daemon.lock() = Some(waiting);
    }

    /// The daemon serves from now on. `ready` is what health reports.
    pub fn serve(&self, daemon: Arc<dyn MonitoredDaemon>, ready: watch::Receiver<bool>) {
        *self.0.daemon.lock() = Some(daemon);
        *self.0.phase.lock() = DaemonPhase::Serving(ready.clone());
        if self.0.notifier.is_none() {
            return;
        }
        let (monitor, mut ready) = (self.clone(), ready);
        tokio::spawn(async move {
            monitor.notify_status();
            while ready.changed().await.is_ok() {
                monitor.notify_status();
            }
        });
    }

    /// The daemon accepts connections from now on. `sampler` reads the metrics of them.
    pub fn listen(&self, sampler: impl Fn(&mut Samples) + Send + Sync + 'static) {
        *self.0.server.lock() = Some(Box::new(sampler));
        self.0.is_started.store(true, Ordering::Release);
        self.notify_ready();
    }

    /// Whether the supervisor has been told that the daemon is started. Before that, a reload must not tell it so.
    pub(super) fn is_started(&self) -> bool {
        self.0.is_started.load(Ordering::Acquire)
    }

    /// The daemon ends.
    pub(super) fn stop(&self) {
        *self.0.phase.lock() = DaemonPhase::Stopping;
        self.notify("STOPPING=1\nSTATUS=shutting down");
    }

    /// What the daemon does.
    pub(super) fn phase(&self) -> DaemonPhase {
        self.0.phase.lock().clone()
    }

    /// Notifies the supervisor, if there is one.
    pub(super) fn notify(&self, state: &str) {
        if let Some(notifier) = &self.0.notifier {
            notifier.send(state);
        }
    }

    /// Notifies it that the daemon is started, also if it waits. For a daemon that listens.
    pub(super) fn notify_ready(&self) {
        let phase = self.phase();
        if !matches!(phase, DaemonPhase::Stopping) {
            self.notify(&format!("READY=1\nSTATUS={phase}"));
        }
    }

    /// Notifies it of what the daemon does.
    pub(super) fn notify_status(&self) {
        self.notify(&format!("STATUS={}", self.phase()));
    }

    /// Fails if the open daemon does not work any more. Blocks for a bounded time.
    pub(super) fn check_alive(&self) -> Result<()> {
        vital::check()?;
        let daemon = self.0.daemon.lock().clone();
        daemon.map_or(Ok(()), |daemon| daemon.check_alive())
    }

    /// Writes a scrape. Blocks.
    pub(super) fn scrape(&self, format: ExpositionFormat) -> String {
        let mut samples = Samples::default();
        let phase = self.phase();
        let kind = match self.0.kind {
            Some(DaemonKind::Reader) => "reader",
            _ => "writer",
        };
        samples.set_with(&catalog::BUILD_INFO, &[kind, env!("CARGO_PKG_VERSION")], true);
        samples.set(&catalog::READY, phase.is_ready());
        samples.set(&catalog::STANDBY, matches!(phase, DaemonPhase::Waiting(_)));
        process::sample(&mut samples, self.0.started_at);
        if let Some(server) = &*self.0.server.lock() {
            server(&mut samples);
        }
        let daemon = self.0.daemon.lock().clone();
        if let Some(daemon) = daemon {
            daemon.sample(&mut samples);
        }
        metrics::render(format, samples)
    }
}
