//! An object store in memory that delays, loses answers, repeats requests and refuses them, as real ones do. It remembers every object
//! that it ever had, so that a test can look at what a deletion hides.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use driftdb_common::bucket::objects::{
    CreateAnswer, FaultKind, FoundObject, Objects, Persistence, StoreFault,
};
use driftdb_common::bucket::store::BucketStore;
use driftdb_common::error::Result;

use super::condition::Random;

/// What an attempt meets, in percent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Nothing is done, and the store says so: 429, 500, a refused connection.
    pub refused: u64,
    /// It is done, and the answer is lost.
    pub answer_lost: u64,
    /// It is done some time later, and the caller sees a time-out.
    pub delayed: u64,
    /// It is done twice: the second answer arrives, "exists".
    pub repeated: u64,
    /// Another request for the name is under way, says the store (409), and there may be none.
    pub conflict: u64,
}

impl Faults {
    pub const SOME: Faults = Faults { refused: 8, answer_lost: 8, delayed: 6, repeated: 6, conflict: 4 };
}

#[derive(Debug)]
struct SimObjects {
    objects: BTreeMap<String, Bytes>,
    /// All contents that a name ever had.
    ever: BTreeMap<String, BTreeSet<Vec<u8>>>,
    /// The bytes of an object that were read.
    read: BTreeMap<String, u64>,
    delayed: Vec<(String, Bytes)>,
    random: Random,
    faults: Faults,
}

type Hook = Box<dyn FnOnce() + Send>;

/// The store.
pub struct SimBucket {
    state: Mutex<SimObjects>,
    /// Runs before the next creation of an object whose name begins so.
    before_create: Mutex<Option<(String, Hook)>>,
}

impl std::fmt::Debug for SimBucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimBucket")
    }
}

fn fault(message: &str) -> StoreFault {
    StoreFault { kind: FaultKind::Transient, message: message.to_owned() }
}

impl SimObjects {
    fn create(&mut self, name: &str, bytes: &Bytes) -> CreateAnswer {
        if self.objects.contains_key(name) {
            return CreateAnswer::Exists;
        }
        self.put(name, bytes);
        CreateAnswer::Created
    }

    fn put(&mut self, name: &str, bytes: &Bytes) {
        self.ever.entry(name.to_owned()).or_default().insert(bytes.to_vec());
        self.objects.insert(name.to_owned(), bytes.clone());
    }

    fn percent(&mut self) -> u64 {
        (self.random.next() >> 33) % 100
    }

    /// Something that was delayed may arrive now.
    fn settle(&mut self) {
        if !self.delayed.is_empty() && self.percent() < 20 {
            let at = usize::try_from(self.random.next() >> 33).unwrap() % self.delayed.len();
            let (name, bytes) = self.delayed.swap_remove(at);
            self.create(&name, &bytes);
        }
    }

    fn read_fails(&mut self) -> bool {
        self.settle();
        self.faults.refused > 0 && self.percent() < self.faults.refused
    }
}

impl SimBucket {
    pub fn new(seed: u64, faults: Faults) -> Arc<SimBucket> {
        let state = SimObjects {
            objects: BTreeMap::new(),
            ever: BTreeMap::new(),
            read: BTreeMap::new(),
            delayed: Vec::new(),
            random: Random(seed),
            faults,
        };
        Arc::new(SimBucket { state: Mutex::new(state), before_create: Mutex::new(None) })
    }

    pub fn store(self: &Arc<Self>) -> BucketStore {
        BucketStore::new(Arc::clone(self) as Arc<dyn Objects>, "sim://bucket").without_pauses()
    }

    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().unwrap().faults = faults;
    }

    /// All delayed requests arrive.
    pub fn deliver_all(&self) {
        let mut state = self.state.lock().unwrap();
        for (name, bytes) in std::mem::take(&mut state.delayed) {
            state.create(&name, &bytes);
        }
    }

    pub fn before_create(&self, prefix: &str, hook: impl FnOnce() + Send + 'static) {
        *self.before_create.lock().unwrap() = Some((prefix.to_owned(), Box::new(hook)));
    }

    pub fn object(&self, name: &str) -> Option<Bytes> {
        self.state.lock().unwrap().objects.get(name).cloned()
    }

    /// Replaces an object, as no writer does.
    pub fn overwrite(&self, name: &str, bytes: &Bytes) {
        self.state.lock().unwrap().put(name, bytes);
    }

    /// Every content that a name ever had.
    pub fn ever(&self, name: &str) -> Vec<Vec<u8>> {
        self.state.lock().unwrap().ever.get(name).into_iter().flatten().cloned().collect()
    }

    /// The bytes of an object that were read so far, each as often as it was.
    pub fn read_bytes(&self, name: &str) -> u64 {
        self.state.lock().unwrap().read.get(name).copied().unwrap_or_default()
    }

    pub fn names(&self) -> Vec<String> {
        self.state.lock().unwrap().objects.keys().cloned().collect()
    }

    /// A copy of what is there now, without faults.
    pub fn fork(&self) -> Arc<SimBucket> {
        let copy = SimBucket::new(1, Faults::default());
        let (mut to, from) = (copy.state.lock().unwrap(), self.state.lock().unwrap());
        to.objects = from.objects.clone();
        to.ever = from.ever.clone();
        drop((to, from));
        copy
    }
}

impl Objects for SimBucket {
    fn create(&self, name: &str, bytes: &Bytes) -> Result<CreateAnswer, StoreFault> {
        let hook = {
            let mut hook = self.before_create.lock().unwrap();
            let is_now = hook.as_ref().is_some_and(|(prefix, _)| name.starts_with(prefix));
            if is_now { hook.take() } else { None }
        };
        if let Some((_, hook)) = hook {
            hook();
        }
        std::thread::yield_now();
        let mut state = self.state.lock().unwrap();
        state.settle();
        let (faults, pick, mut low) = (state.faults, state.percent(), 0);
        let mut falls = |percent: u64| {
            let is_it = (low..low + percent).contains(&pick);
            low += percent;
            is_it
        };
        if falls(faults.refused) {
            return Err(fault("429 too many requests"));
        }
        if falls(faults.answer_lost) {
            state.create(name, bytes);
            return Err(fault("connection reset"));
        }
        if falls(faults.delayed) {
            state.delayed.push((name.to_owned(), bytes.clone()));
            return Err(fault("time-out"));
        }
        if falls(faults.repeated) {
            state.create(name, bytes);
            return Ok(state.create(name, bytes));
        }
        if falls(faults.conflict) {
            return Ok(CreateAnswer::Exists);
        }
        Ok(state.create(name, bytes))
    }

    fn get(&self, name: &str, range: Option<Range<u64>>, limit: u64) -> Result<Option<Bytes>, StoreFault> {
        let mut state = self.state.lock().unwrap();
        if state.read_fails() {
            return Err(fault("503 slow down"));
        }
        let Some(found) = state.objects.get(name).cloned() else { return Ok(None) };
        let len = found.len() as u64;
        let range = range.unwrap_or(0..len);
        let (start, end) = (range.start.min(len), range.end.min(len));
        assert!(end - start <= limit);
        *state.read.entry(name.to_owned()).or_default() += end - start;
        Ok(Some(found.slice(usize::try_from(start).unwrap()..usize::try_from(end).unwrap())))
    }

    fn length(&self, name: &str) -> Result<Option<u64>, StoreFault> {
        let mut state = self.state.lock().unwrap();
        if state.read_fails() {
            return Err(fault("500 internal error"));
        }
        Ok(state.objects.get(name).map(|found| found.len() as u64))
    }

    fn list(&self, folder: &str) -> Result<Vec<FoundObject>, StoreFault> {
        let mut state = self.state.lock().unwrap();
        if state.read_fails() {
            return Err(fault("500 internal error"));
        }
        let in_folder = state.objects.iter().filter(|(name, _)| name.starts_with(&format!("{folder}/")));
        Ok(in_folder
            .map(|(name, bytes)| FoundObject { name: name.clone(), bytes: bytes.len() as u64 })
            .collect())
    }

    fn list_after(&self, folder: &str, after: &str) -> Result<Vec<FoundObject>, StoreFault> {
        let mut found = self.list(folder)?;
        found.retain(|object| object.name.as_str() > after);
        Ok(found)
    }

    fn delete(&self, name: &str) -> Result<(), StoreFault> {
        let mut state = self.state.lock().unwrap();
        if state.read_fails() {
            return Err(fault("500 internal error"));
        }
        state.objects.remove(name);
        Ok(())
    }

    fn put_whole(&self, name: &str, bytes: &Bytes) -> Result<(), StoreFault> {
        let mut state = self.state.lock().unwrap();
        if state.read_fails() {
            return Err(fault("500 internal error"));
        }
        state.put(name, bytes);
        Ok(())
    }

    fn put_parts(
        &self,
        name: &str,
        parts: &mut dyn Iterator<Item = Result<Bytes>>,
        patience: &dyn Fn() -> Persistence,
    ) -> Result<Result<()>, StoreFault> {
        let mut whole = Vec::new();
        for part in parts {
            match part {
                Ok(part) => whole.extend_from_slice(&part),
                Err(error) => return Ok(Err(error)),
            }
        }
        let whole = Bytes::from(whole);
        patience().repeat(|| self.put_whole(name, &whole)).map(Ok)
    }
}
