//! How long calls take, by method and code: the handles of the histograms, and the timer of one call, which also ends its trace.
//!
//! A call finds its method in a short list, and its code in an array: nothing is allocated, and nothing is locked. The methods are those
//! of the API and of health and reflection; what else a client asks for is one more, so that it cannot make series.

use std::sync::{LazyLock, OnceLock};
use std::time::Instant;

use ::metrics::Histogram;
use http::HeaderMap;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::{Code, Status};

use crate::metrics;
use crate::metrics::catalog;
use crate::trace::{CallTrace, TraceContext};

/// OpenTelemetry's name for a method that the server does not know.
const OTHER: &str = "_OTHER";
/// What else the server answers.
const REFLECTION: [&str; 2] = [
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
/// The names of the codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The methods. They live as long as the process, as the series do.
static METHODS: LazyLock<Vec<MeasuredMethod>> = LazyLock::new(|| {
    let names = method_names().into_iter().chain(REFLECTION.map(str::to_owned)).chain([OTHER.to_owned()]);
    names.map(|name| MeasuredMethod { name: name.leak(), by_code: Default::default() }).collect()
});

/// One method, with a histogram for each code that it has answered.
#[derive(Debug)]
struct MeasuredMethod {
    /// `driftdb.v1.WriterService/Apply`.
    name: &'static str,
    by_code: [OnceLock<Histogram>; CODES.len()],
}

/// The methods in the descriptors of the API and of health.
fn method_names() -> Vec<String> {
    let sets = [driftdb::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];
    let sets = sets.into_iter().filter_map(|set| FileDescriptorSet::decode(set).ok());
    let mut names = Vec::new();
    for file in sets.flat_map(|set| set.file) {
        for service in &file.service {
            let of_service = service.method.iter().map(|method| method.name());
            names.extend(of_service.map(|method| format!("{}.{}/{method}", file.package(), service.name())));
        }
    }
    names
}

/// Measures one call, from its headers until it is dropped.
#[derive(Debug, Default)]
pub struct CallTimer(Option<RunningCall>);

#[derive(Debug)]
struct RunningCall {
    method: &'static MeasuredMethod,
    began_at: Instant,
    /// Set at the end of the answer.
    code: Option<Code>,
    trace: CallTrace,
}

impl CallTimer {
    /// Starts to measure a call by its path and headers. Does nothing if nobody asks for metrics or traces.
    pub fn start(path: &str, headers: &HeaderMap) -> CallTimer {
        if !metrics::is_installed() && !CallTrace::is_started() {
            return CallTimer(None);
        }
        let name = path.strip_prefix('/').unwrap_or(path);
        let known = METHODS.iter().find(|method| method.name == name);
        // The last one stands for all others.
        let Some(method) = known.or(METHODS.last()) else { return CallTimer(None) };
        let trace = CallTrace::begin(method.name, headers);
        CallTimer(Some(RunningCall { method, began_at: Instant::now(), code: None, trace }))
    }

    /// What the steps of the call belong to.
    pub fn trace(&self) -> TraceContext {
        self.0.as_ref().map(|call| call.trace.context()).unwrap_or_default()
    }

    /// Takes the code from headers or trailers that have it.
    pub fn see(&mut self, headers: &HeaderMap) {
        if let Some(call) = &mut self.0
            && let Some(code) = headers.get(Status::GRPC_STATUS)
        {
            call.code = Some(Code::from_bytes(code.as_bytes()));
        }
    }

    /// The call ends with a code.
    pub fn end(&mut self, code: Code) {
        if let Some(call) = &mut self.0 {
            call.code = Some(code);
        }
    }
}

impl Drop for CallTimer {
    fn drop(&mut self) {
        let Some(RunningCall { method, began_at, code, mut trace }) = self.0.take() else { return };
        // Without an end, the client has left or has reset the call.
        let code = code.unwrap_or(Code::Cancelled);
        let is_fault = is_fault(code);
        let at = usize::try_from(code as i32).unwrap_or_default();
        let (Some(series), Some(code)) = (method.by_code.get(at), CODES.get(at)) else { return };
        trace.end(code, is_fault);
        let labels = || metrics::histogram_of(&catalog::CALL_DURATION, &["grpc", method.name, code]);
        series.get_or_init(labels).record(began_at.elapsed().as_secs_f64());
    }
}

/// Whether a code says that the server is to blame, as OpenTelemetry's conventions for gRPC servers have it.
fn is_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_name() {
        for (number, name) in CODES.iter().enumerate() {
            let code = Code::from_bytes(number.to_string().as_bytes());
            assert_eq!(code as usize, number);
            assert_eq!(format!("{code:?}").to_uppercase(), name.replace('_', ""));
        }
    }

    #[test]
    fn the_methods_are_those_of_the_api_of_health_and_of_reflection() {
        let names: Vec<&str> = METHODS.iter().map(|method| method.name).collect();
        for name in [
            "driftdb.v1.WriterService/Apply",
            "driftdb.v1.ReaderService/WatchDrift",
            "grpc.health.v1.Health/Check",
            "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            assert!(names.contains(&name), "{name}: {names:?}");
        }
        assert_eq!(names.last(), Some(&OTHER));
        // Each with each code, and there is room for all others.
        assert!(names.len() * CODES.len() < crate::limits::METRIC_SERIES / 2);
    }
}
