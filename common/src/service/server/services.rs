//! The services of a daemon, found by the path of a call.
//!
//! The daemon's own service is called directly. The few calls to health and reflection go through tonic's router, which makes a
//! call a dozen allocations dearer.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{Request, Response};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::service::Routes;

/// What a service computes of a call.
pub type ServiceFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// The service for which a daemon runs, such as those that are generated from the proto files.
pub trait OwnService:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = ServiceFuture>
    + NamedService
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> OwnService for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = ServiceFuture>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// All services of a server.
#[derive(Clone)]
pub struct ServerServices {
    /// What the paths of the daemon's own service begin with.
    own_path: Arc<str>,
    own: Arc<dyn Fn(Request<Body>) -> ServiceFuture + Send + Sync>,
    others: Routes,
}

impl ServerServices {
    /// A daemon's own service, and others.
    pub fn new<S: OwnService>(own: S, others: Routes) -> ServerServices {
        ServerServices {
            own_path: format!("/{}/", S::NAME).into(),
            own: Arc::new(move |request: Request<Body>| own.clone().call(request)),
            others,
        }
    }

    /// Begins a call.
    pub fn call(&self, request: Request<Body>) -> ServiceFuture {
        if request.uri().path().starts_with(&*self.own_path) {
            return (self.own)(request);
        }
        Box::pin(self.others.clone().call(request))
    }
}
