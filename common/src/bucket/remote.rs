//! Talks to an object store through the crate `object_store`: one attempt each, with a time-out, from any thread.
//!
//! The crate is asynchronous, and the log's threads are not. So each store has a runtime of one thread, and callers wait for its
//! answer. They may not be on a thread that runs other tasks, because they block.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::multipart::MultipartStore;
use object_store::path::Path as ObjectPath;
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutMode, PutOptions, PutPayload,
    RetryConfig,
};
use reqwest::Url;
use tokio::runtime::{Builder, Runtime};

use crate::bucket::objects::{CreateAnswer, FaultKind, FoundObject, Objects, Persistence, StoreFault};
use crate::error::{Error, Reason, Result};
use crate::limits;
use crate::storage::fs::{FileSystem, OsFileSystem};

/// How much longer than the time-out a caller waits for the runtime to say that the time is over.
const ANSWER_GRACE: Duration = Duration::from_secs(5);

/// Where the objects are.
enum StoreKind {
    /// In an object store: requests, and uploads in parts.
    Remote(Arc<dyn ObjectStore>, Arc<dyn MultipartStore>),
    /// In a directory, which the first write creates.
    Directory(PathBuf, OnceLock<Arc<dyn ObjectStore>>),
}

/// An object store, and the names in it that are the database's.
pub(super) struct RemoteObjects {
    /// Started by the first request.
    runtime: OnceLock<Runtime>,
    kind: StoreKind,
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

/// Opens the store of a URL, or of a directory. Sends nothing, and creates nothing.
pub(super) fn open(url: &str, timeout: Duration) -> Result<RemoteObjects> {
    let (kind, prefix) = match BucketUrl::parse(url)? {
        BucketUrl::Directory(path) => (StoreKind::Directory(path, OnceLock::new()), ObjectPath::default()),
        BucketUrl::Remote(scheme, _, prefix) => (open_remote(url, &scheme)?, prefix),
    };
    Ok(RemoteObjects { runtime: OnceLock::new(), kind, prefix, timeout })
}

/// Where the bucket of a URL is: the same text for all spellings of the URL.
pub(super) fn place_of(url: &str) -> Result<String> {
    Ok(match BucketUrl::parse(url)? {
        BucketUrl::Directory(path) => {
            // The directory may not exist yet, and its parents do.
            let path = std::path::absolute(&path).unwrap_or(path);
            let resolved = path.ancestors().find_map(|above| {
                let rest = path.strip_prefix(above).ok()?;
                above.canonicalize().ok().map(|above| above.join(rest))
            });
            let path: PathBuf = resolved.unwrap_or(path).components().collect();
            format!("file://{}", path.display())
        }
        BucketUrl::Remote(scheme, url, prefix) => {
            let user = Some(url.username()).filter(|user| !user.is_empty());
            let host = url.host_str().unwrap_or_default();
            format!("{scheme:?}://{}{host}/{prefix}", user.map(|user| format!("{user}@")).unwrap_or_default())
        }
    })
}

/// What a URL names.
enum BucketUrl {
    Directory(PathBuf),
    Remote(ObjectStoreScheme, Url, ObjectPath),
}

impl BucketUrl {
    /// Fails if the URL has credentials.
    fn parse(text: &str) -> Result<BucketUrl> {
        if !text.contains("://") {
            return Ok(BucketUrl::Directory(PathBuf::from(text)));
        }
        let url = Url::parse(text).map_err(|e| invalid(text, e))?;
        let has_user = !url.username().is_empty() && !names_container_as_user(url.scheme());
        if has_user || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            let why = "credentials and options do not belong in the URL, but in the environment";
            return Err(invalid(text, why));
        }
        let (scheme, prefix) = ObjectStoreScheme::parse(&url).map_err(|e| invalid(text, e))?;
        match scheme {
            ObjectStoreScheme::Local => {
                let path = url.to_file_path().map_err(|()| invalid(text, "it has no path"))?;
                Ok(BucketUrl::Directory(path))
            }
            scheme => Ok(BucketUrl::Remote(scheme, url, prefix)),
        }
    }
}

/// Whether URLs of a scheme have a container before the `@`, and no user.
fn names_container_as_user(scheme: &str) -> bool {
    ["abfs", "abfss"].contains(&scheme)
}

fn invalid(url: &str, why: impl fmt::Display) -> Error {
    let message = format!(
        "cannot use the bucket {}: {why}; give a URL such as s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///path",
        redacted(url)
    );
    Error::new(Reason::ArgumentInvalid, message)
}

fn open_remote(text: &str, scheme: &ObjectStoreScheme) -> Result<StoreKind> {
    // The daemons and driftctl have a provider of their own: whichever was installed first is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let failed = |e: object_store::Error| invalid(text, redacted(&e.to_string()));
    // This module retries: it knows what may be repeated, and when to stop.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    match scheme {
        ObjectStoreScheme::AmazonS3 => {
            let store = AmazonS3Builder::from_env().with_url(text).with_retry(retry).build();
            Ok(remote_kind(store.map_err(failed)?))
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            let store = GoogleCloudStorageBuilder::from_env().with_url(text).with_retry(retry).build();
            Ok(remote_kind(store.map_err(failed)?))
        }
        ObjectStoreScheme::MicrosoftAzure => {
            let store = MicrosoftAzureBuilder::from_env().with_url(text).with_retry(retry).build();
            Ok(remote_kind(store.map_err(failed)?))
        }
        _ => Err(invalid(text, "such a store cannot create an object only if it does not exist")),
    }
}

fn remote_kind<S: ObjectStore + MultipartStore>(store: S) -> StoreKind {
    let store = Arc::new(store);
    let uploads: Arc<dyn MultipartStore> = Arc::<S>::clone(&store);
    StoreKind::Remote(store, uploads)
}

/// Opens an existing directory.
fn open_directory(path: &Path) -> Result<Arc<dyn ObjectStore>, StoreFault> {
    let opened = LocalFileSystem::new_with_prefix(path);
    Ok(Arc::new(opened.map_err(|error| fault(&error))?.with_fsync(true)))
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
            Some((user, host)) if user.contains(':') || !names_container_as_user(scheme) => host,
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

fn missing_directory(path: &Path) -> StoreFault {
    let message = format!("the directory {} does not exist, or is none", path.display());
    StoreFault { kind: FaultKind::Transient, message }
}

impl RemoteObjects {
    fn path(&self, name: &str) -> ObjectPath {
        // As it is, so that listings return the same name. Joining would encode some characters.
        ObjectPath::parse(format!("{}/{name}", self.prefix)).unwrap_or_else(|_| ObjectPath::from(name))
    }

    /// The store for a read; `None` if it is a directory that no write has created yet.
    fn readable(&self) -> Result<Option<Arc<dyn ObjectStore>>, StoreFault> {
        match &self.kind {
            StoreKind::Remote(store, _) => Ok(Some(Arc::clone(store))),
            StoreKind::Directory(path, opened) => match (opened.get(), path.is_dir()) {
                (Some(store), true) => Ok(Some(Arc::clone(store))),
                (None, true) => {
                    open_directory(path).map(|store| Some(Arc::clone(opened.get_or_init(|| store))))
                }
                (None, false) if !path.exists() => Ok(None),
                (_, false) => Err(missing_directory(path)),
            },
        }
    }

    /// The store for a write. Creates a directory that does not exist, but not those above it: a disk that is not mounted must not be
    /// taken for an empty bucket.
    fn writable(&self) -> Result<Arc<dyn ObjectStore>, StoreFault> {
        if let StoreKind::Directory(path, opened) = &self.kind
            && opened.get().is_none()
            && !path.exists()
        {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            if !parent.is_none_or(Path::is_dir) {
                let above = parent.unwrap_or(path).display();
                let message = format!("the directory {above} does not exist (is its disk mounted?)");
                return Err(StoreFault { kind: FaultKind::Unsupported, message });
            }
            let created = OsFileSystem.create_dir(path);
            created.map_err(|e| StoreFault {
                kind: FaultKind::Transient,
                message: format!("cannot create the directory {}: {e}", path.display()),
            })?;
        }
        self.readable()?.ok_or_else(|| StoreFault {
            kind: FaultKind::Transient,
            message: "the directory was removed just now".to_owned(),
        })
    }

    fn listing(&self, folder: &str, after: Option<&str>) -> Result<Vec<FoundObject>, StoreFault> {
        let Some(store) = self.readable()? else { return Ok(Vec::new()) };
        let (path, prefix) = (self.path(folder), self.prefix.to_string());
        let after = after.map(|after| self.path(after));
        let answer = self.run(async move {
            let mut found = Vec::new();
            let mut objects = match &after {
                Some(after) => store.list_with_offset(Some(&path), after),
                None => store.list(Some(&path)),
            };
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
        let (store, path, payload) = (self.writable()?, self.path(name), PutPayload::from(bytes.clone()));
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
        let Some(store) = self.readable()? else { return Ok(None) };
        let path = self.path(name);
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
        let Some(store) = self.readable()? else { return Ok(None) };
        let path = self.path(name);
        match self.run(async move { store.head(&path).await })? {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(fault(&error)),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<FoundObject>, StoreFault> {
        self.listing(folder, None)
    }

    fn list_after(&self, folder: &str, after: &str) -> Result<Vec<FoundObject>, StoreFault> {
        self.listing(folder, Some(after))
    }

    fn delete(&self, name: &str) -> Result<(), StoreFault> {
        let Some(store) = self.readable()? else { return Ok(()) };
        let path = self.path(name);
        match self.run(async move { store.delete(&path).await })? {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(fault(&error)),
        }
    }

    fn put_whole(&self, name: &str, bytes: &Bytes) -> Result<(), StoreFault> {
        let (store, path, payload) = (self.writable()?, self.path(name), PutPayload::from(bytes.clone()));
        self.run(async move { store.put(&path, payload).await })?.map(drop).map_err(|error| fault(&error))
    }

    fn put_parts(
        &self,
        name: &str,
        parts: &mut dyn Iterator<Item = Result<Bytes>>,
        patience: &dyn Fn() -> Persistence,
    ) -> Result<Result<()>, StoreFault> {
        let StoreKind::Remote(_, uploads) = &self.kind else { return self.put_parts_on_disk(name, parts) };
        let path = self.path(name);
        let begin = || {
            let (uploads, path) = (Arc::clone(uploads), path.clone());
            self.answer(async move { uploads.create_multipart(&path).await })
        };
        let id = patience().repeat(begin)?;
        let mut sent = Vec::new();
        for part in parts {
            let outcome = part.map(|bytes| {
                patience().repeat(|| {
                    let (uploads, path, id) = (Arc::clone(uploads), path.clone(), id.clone());
                    let (index, payload) = (sent.len(), PutPayload::from(bytes.clone()));
                    self.answer(async move { uploads.put_part(&path, &id, index, payload).await })
                })
            });
            match outcome {
                Ok(Ok(part)) => sent.push(part),
                failure => {
                    // If this fails, too, the store's rule for unfinished uploads removes the parts.
                    let (uploads, path) = (Arc::clone(uploads), path.clone());
                    let _ = self.run(async move { uploads.abort_multipart(&path, &id).await });
                    return failure.map_or_else(|error| Ok(Err(error)), |failed| failed.map(|_| Ok(())));
                }
            }
        }
        let complete = || {
            let (uploads, path, id, sent) = (Arc::clone(uploads), path.clone(), id.clone(), sent.clone());
            self.answer(async move { uploads.complete_multipart(&path, &id, sent).await })
        };
        patience().repeat(complete).map(|_| Ok(()))
    }
}

impl RemoteObjects {
    /// Runs one request, whose failure is a fault.
    fn answer<T: Send + 'static>(
        &self,
        request: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<T, StoreFault> {
        self.run(request)?.map_err(|error| fault(&error))
    }

    /// Writes the parts of a large object to a directory, where nothing is gained by another attempt at a part.
    fn put_parts_on_disk(
        &self,
        name: &str,
        parts: &mut dyn Iterator<Item = Result<Bytes>>,
    ) -> Result<Result<()>, StoreFault> {
        let (store, path) = (self.writable()?, self.path(name));
        let mut upload = self.answer(async move { store.put_multipart(&path).await })?;
        for part in parts {
            let sent = part.map(|bytes| self.answer(upload.put_part(PutPayload::from(bytes))));
            if !matches!(sent, Ok(Ok(()))) {
                let _ = self.run(async move { upload.abort().await });
                return sent.map_or_else(|error| Ok(Err(error)), |failed| failed.map(Ok));
            }
        }
        self.answer(async move { upload.complete().await }).map(|_| Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_spellings_of_a_bucket_name_one_place() {
        for (one, other) in [
            ("s3://own/prefix", "s3://own/prefix/"),
            ("s3://own/prefix", "s3://own/./prefix"),
            ("s3://own/prefix", "s3://own/x/../prefix"),
            ("s3://own/prefix", "s3://own/pre%66ix"),
            ("s3://own/prefix", "s3a://own/prefix"),
            ("file:///nowhere/b", "/nowhere//b/"),
            ("file:///nowhere/b", "file:///nowhere/%62"),
        ] {
            assert_eq!(place_of(one).unwrap(), place_of(other).unwrap(), "{one} {other}");
        }
        for (one, other) in
            [("s3://own/prefix", "s3://own/prefix2"), ("s3://own/p", "gs://own/p"), ("s3://a/p", "s3://b/p")]
        {
            assert_ne!(place_of(one).unwrap(), place_of(other).unwrap(), "{one} {other}");
        }
    }

    #[test]
    fn credentials_in_a_url_are_refused_and_not_repeated() {
        for url in ["s3://KEY:SECRET@b/p", "s3://SECRET@b/p", "gs://x:SECRET@b", "s3://b/p?key=SECRET"] {
            let refused = place_of(url).unwrap_err();
            assert!(refused.message().contains("do not belong in the URL"), "{refused}");
            assert!(!refused.message().contains("SECRET") && !refused.message().contains("KEY"), "{refused}");
        }
        assert!(place_of("abfss://container@account.dfs.core.windows.net/p").is_ok());
    }
}
