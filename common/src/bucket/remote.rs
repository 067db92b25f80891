//! Talks to an object store through the crate `object_store`: one attempt each, with a time-out, from any thread.
//!
//! The crate is asynchronous, and the log's threads are not. So each store has a runtime of one thread, and callers wait for its
//! answer. They may not be on a thread that runs other tasks, because they block.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutMode, PutOptions, PutPayload,
    RetryConfig,
};
use reqwest::Url;
use tokio::runtime::{Builder, Runtime};

use crate::bucket::objects::{CreateAnswer, FaultKind, FoundObject, Objects, StoreFault};
use crate::error::{Error, Reason, Result};
use crate::limits;
use crate::storage::fs::{FileSystem, OsFileSystem};

/// How much longer than the time-out a caller waits for the runtime to say that the time is over.
const ANSWER_GRACE: Duration = Duration::from_secs(5);
/// An object store, and the names in it that are the database's.
pub(super) struct RemoteObjects {
    /// Started by the first request.
    runtime: OnceLock<Runtime>,
    store: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    timeout: Duration,
}

impl fmt::Debug for RemoteObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteObjects").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Drop for RemoteObjects {
    fn drop(&mut self) {
        // Does not wait, because the drop may be on a thread that runs tasks.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Opens the store of a URL, or of a directory. Sends nothing.
pub(super) fn open(url: &str, timeout: Duration) -> Result<RemoteObjects> {
    let (store, prefix) = if url.contains("://") { open_url(url)? } else { open_directory(Path::new(url))? };
    Ok(RemoteObjects { runtime: OnceLock::new(), store, prefix, timeout })
}

fn invalid(url: &str, why: impl fmt::Display) -> Error {
    let message = format!(
        "cannot use the bucket {}: {why}; give a URL such as s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///path",
        redacted(url)
    );
    Error::new(Reason::ArgumentInvalid, message)
}

fn open_directory(path: &Path) -> Result<(Arc<dyn ObjectStore>, ObjectPath)> {
    let failed = |e: &dyn fmt::Display| {
        Error::new(Reason::Io, format!("cannot use the directory {} as a bucket: {e}", path.display()))
    };
    OsFileSystem.create_dir(path).map_err(|e| failed(&e))?;
    let store = LocalFileSystem::new_with_prefix(path).map_err(|e| failed(&e))?.with_fsync(true);
    Ok((Arc::new(store), ObjectPath::default()))
}

fn open_url(text: &str) -> Result<(Arc<dyn ObjectStore>, ObjectPath)> {
    let url = Url::parse(text).map_err(|e| invalid(text, e))?;
    if url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        let why = "credentials and options do not belong in the URL, but in the environment";
        return Err(invalid(text, why));
    }
    let (scheme, prefix) = ObjectStoreScheme::parse(&url).map_err(|e| invalid(text, e))?;
    // The daemons and driftctl have a provider of their own: whichever was installed first is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let failed = |e: object_store::Error| invalid(text, redacted(&e.to_string()));
    // This module retries: it knows what may be repeated, and when to stop.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let store: Arc<dyn ObjectStore> = match scheme {
        ObjectStoreScheme::Local => {
            let path = url.to_file_path().map_err(|()| invalid(text, "it has no path"))?;
            return open_directory(&path);
        }
        ObjectStoreScheme::AmazonS3 => {
            Arc::new(AmazonS3Builder::from_env().with_url(text).with_retry(retry).build().map_err(failed)?)
        }
        ObjectStoreScheme::GoogleCloudStorage => Arc::new(
            GoogleCloudStorageBuilder::from_env().with_url(text).with_retry(retry).build().map_err(failed)?,
        ),
        ObjectStoreScheme::MicrosoftAzure => Arc::new(
            MicrosoftAzureBuilder::from_env().with_url(text).with_retry(retry).build().map_err(failed)?,
        ),
        _ => return Err(invalid(text, "such a store cannot create an object only if it does not exist")),
    };
    Ok((store, prefix))
}

/// Removes the queries of URLs from a text: they can contain signatures.
fn redacted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (i, word) in text.split(' ').enumerate() {
        if i > 0 {
            out.push(' ');
        }
        let Some((scheme, rest)) = word.split_once("://") else {
            out.push_str(word);
            continue;
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let place = match place.split_once('@') {
            Some((user, host)) if user.contains(':') => host,
            _ => place,
        };
        out.push_str(scheme);
        out.push_str("://");
        out.push_str(place);
        // What closes the URL in the sentence.
        out.push_str(query.find([')', '"', ',']).and_then(|end| query.get(end..)).unwrap_or_default());
    }
    out
}

/// The text of an error and of its causes that the text does not contain yet.
fn describe(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    redacted(&text)
}

fn fault(error: &object_store::Error) -> StoreFault {
    use object_store::Error::{
        InvalidPath, NotImplemented, NotSupported, PermissionDenied, Unauthenticated, UnknownConfigurationKey,
    };
    let kind = match error {
        PermissionDenied { .. } | Unauthenticated { .. } => FaultKind::Denied,
        NotSupported { .. } | NotImplemented { .. } | InvalidPath { .. } | UnknownConfigurationKey { .. } => {
            FaultKind::Unsupported
        }
        _ => FaultKind::Transient,
    };
    StoreFault { kind, message: describe(error) }
}

impl RemoteObjects {
    fn path(&self, name: &str) -> ObjectPath {
        // As it is, so that listings return the same name. Joining would encode some characters.
        ObjectPath::parse(format!("{}/{name}", self.prefix)).unwrap_or_else(|_| ObjectPath::from(name))
    }

    fn runtime(&self) -> Result<&Runtime, StoreFault> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime);
        }
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).max_blocking_threads(4).thread_name("driftdb-bucket").enable_all();
        let failed = |e: std::io::Error| StoreFault {
            kind: FaultKind::Transient,
            message: format!("cannot start a thread: {e}"),
        };
        let runtime = builder.build().map_err(failed)?;
        if let Err(second) = self.runtime.set(runtime) {
            second.shutdown_background();
        }
        self.runtime.get().ok_or_else(|| failed(std::io::Error::other("the thread has ended")))
    }

    /// Runs one request to its end or to the time-out.
    fn run<T: Send + 'static>(
        &self,
        request: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<object_store::Result<T>, StoreFault> {
        let over = || StoreFault {
            kind: FaultKind::Transient,
            message: format!("no answer within {} seconds", self.timeout.as_secs()),
        };
        let runtime = self.runtime()?;
        let (reply, answer) = mpsc::sync_channel(1);
        let timeout = self.timeout;
        runtime.spawn(async move {
            // The receiver may have stopped waiting.
            let _ = reply.send(tokio::time::timeout(timeout, request).await);
        });
        answer.recv_timeout(timeout + ANSWER_GRACE).map_err(|_| over())?.map_err(|_| over())
    }
}

impl Objects for RemoteObjects {
    fn create(&self, name: &str, bytes: &Bytes) -> Result<CreateAnswer, StoreFault> {
        let (store, path, payload) =
            (Arc::clone(&self.store), self.path(name), PutPayload::from(bytes.clone()));
        let options = PutOptions::from(PutMode::Create);
        match self.run(async move { store.put_opts(&path, payload, options).await })? {
            Ok(_) => Ok(CreateAnswer::Created),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(CreateAnswer::Exists)
            }
            Err(error) => Err(fault(&error)),
        }
    }

    fn get(&self, name: &str, range: Option<Range<u64>>, limit: u64) -> Result<Option<Bytes>, StoreFault> {
        let (store, path) = (Arc::clone(&self.store), self.path(name));
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let answer = self.run(async move {
            let found = store.get_opts(&path, options).await?;
            let len = found.range.end - found.range.start;
            if len > limit {
                return Ok(Err(len));
            }
            found.bytes().await.map(Ok)
        })?;
        match answer {
            Ok(Ok(bytes)) => Ok(Some(bytes)),
            Ok(Err(len)) => {
                let message = format!("{name} has {len} bytes, over the limit of {limit}");
                Err(StoreFault { kind: FaultKind::Damaged, message })
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(fault(&error)),
        }
    }

    fn length(&self, name: &str) -> Result<Option<u64>, StoreFault> {
        let (store, path) = (Arc::clone(&self.store), self.path(name));
        match self.run(async move { store.head(&path).await })? {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(fault(&error)),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<FoundObject>, StoreFault> {
        let (store, path, prefix) = (Arc::clone(&self.store), self.path(folder), self.prefix.to_string());
        let answer = self.run(async move {
            let mut found = Vec::new();
            let mut objects = store.list(Some(&path));
            while let Some(object) = objects.next().await {
                let object = object?;
                let name = object.location.as_ref();
                let name = name.strip_prefix(&prefix).unwrap_or(name).trim_start_matches('/');
                found.push(FoundObject { name: name.to_owned(), bytes: object.size });
                if found.len() > limits::BUCKET_LISTED_OBJECTS {
                    break;
                }
            }
            Ok(found)
        })?;
        let mut found = answer.map_err(|error| fault(&error))?;
        if found.len() > limits::BUCKET_LISTED_OBJECTS {
            let message = format!("{folder} has more than {} objects", limits::BUCKET_LISTED_OBJECTS);
            return Err(StoreFault { kind: FaultKind::Unsupported, message });
        }
        // Not every store lists in order.
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn delete(&self, name: &str) -> Result<(), StoreFault> {
        let (store, path) = (Arc::clone(&self.store), self.path(name));
        match self.run(async move { store.delete(&path).await })? {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(fault(&error)),
        }
    }

    fn put_whole(&self, name: &str, bytes: &Bytes) -> Result<(), StoreFault> {
        let (store, path, payload) =
            (Arc::clone(&self.store), self.path(name), PutPayload::from(bytes.clone()));
        self.run(async move { store.put(&path, payload).await })?.map(drop).map_err(|error| fault(&error))
    }

    fn put_parts(
        &self,
        name: &str,
        parts: &mut dyn Iterator<Item = Result<Bytes>>,
    ) -> Result<Result<()>, StoreFault> {
        let (store, path) = (Arc::clone(&self.store), self.path(name));
        let failed = |error: object_store::Error| fault(&error);
        let mut upload = self.run(async move { store.put_multipart(&path).await })?.map_err(failed)?;
        for part in parts {
            let sent = match part {
                Ok(bytes) => self.run(upload.put_part(PutPayload::from(bytes))).map_err(Ok),
                Err(error) => Err(Err(error)),
            };
            let failure = match sent {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => Ok(fault(&error)),
                Err(failure) => failure,
            };
            // If this fails, too, the store's rule for unfinished uploads removes the parts.
            let _ = self.run(async move { upload.abort().await });
            return failure.map_or_else(|error| Ok(Err(error)), Err);
        }
        self.run(async move { upload.complete().await })?.map_err(failed)?;
        Ok(Ok(()))
    }
}
