//! Changes of the file with the contexts, which leave in place what the user has written there besides: comments, and the order.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::storage::fs::{self, File, OsFileSystem};
use toml_edit::{Array, DocumentMut, Item, RawString, Table, value};

use super::{ContextEntry, ContextsFile, invalid};

/// How long a change waits for another one.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks whether the other one is done.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// How a new file begins.
const HEADING: &str = "# Contexts of driftctl. `driftctl context --help` tells how to change them.\n\n";

/// The file while it is changed.
#[derive(Debug)]
pub(crate) struct ContextsEditor {
    file: ContextsFile,
    document: DocumentMut,
    /// Held until the change is written, so that of two changes at once none is lost.
    _lock: Box<dyn File>,
}

impl ContextsEditor {
    /// Reads the file of this user, once nobody else changes it. Blocks the thread: this program does nothing else meanwhile.
    pub(crate) fn open() -> Result<ContextsEditor> {
        ContextsEditor::open_at(ContextsFile::own_path()?)
    }

    fn open_at(path: PathBuf) -> Result<ContextsEditor> {
        let failed = |e: io::Error| cannot_write(&path, &e);
        let disk = OsFileSystem::shared();
        disk.create_dir(path.parent().unwrap_or(Path::new("."))).map_err(failed)?;
        let (lock_path, began) = (path.with_extension("toml.lock"), Instant::now());
        let lock = loop {
            match disk.lock(&lock_path).map_err(failed)? {
                Some(lock) => break lock,
                None if began.elapsed() > LOCK_PATIENCE => {
                    let message =
                        format!("{} is being changed by another driftctl; try again", path.display());
                    return Err(Error::new(Reason::Overloaded, message));
                }
                None => thread::sleep(LOCK_PAUSE),
            }
        };
        let file = ContextsFile::read(path)?;
        let mut document = file
            .text
            .as_deref()
            .unwrap_or(HEADING)
            .parse::<DocumentMut>()
            .map_err(|error| invalid(format!("{}: {}", file.path.display(), error.message())))?;
        if document.is_empty() {
            // Comments alone end a document for the parser. Here they stay above what is added.
            let comments = document.trailing().as_str().unwrap_or_default().to_owned();
            document.decor_mut().set_prefix(comments);
            document.set_trailing("");
        }
        Ok(ContextsEditor { file, document, _lock: lock })
    }

    /// The file as it is before the change.
    pub(crate) fn file(&self) -> &ContextsFile {
        &self.file
    }

    /// Makes a context the one that is in use if none is named, or none.
    pub(crate) fn set_current(&mut self, name: Option<&str>) {
        match name {
            Some(name) => _ = self.document.insert("current", value(name)),
            None => {
                let above = self.document.key("current").and_then(|key| key.leaf_decor().prefix());
                let above = text_of(above);
                self.document.remove("current");
                self.keep_at_top(&above);
            }
        }
    }

    /// Keeps comments that stood above what was removed, and may be about the whole file.
    fn keep_at_top(&mut self, comments: &str) {
        let all = text_of(self.document.decor().prefix()) + comments;
        self.document.decor_mut().set_prefix(all);
    }

    /// Adds a context, or replaces it.
    pub(crate) fn insert(&mut self, name: &str, entry: &ContextEntry) -> Result<()> {
        let mut table = Table::new();
        for (key, values) in entry.settings() {
            let item = match key {
                "writer" | "reader" => value(values.into_iter().collect::<Array>()),
                _ => value(values.concat()),
            };
            table.insert(key, item);
        }
        let contexts = self.document.entry("context").or_insert_with(|| {
            let mut contexts = Table::new();
            // Only the tables in it have headings.
            contexts.set_implicit(true);
            Item::Table(contexts)
        });
        let Some(contexts) = contexts.as_table_like_mut() else {
            return Err(invalid(format!("{}: `context` is no table", self.file.path.display())));
        };
        if let Some(old) = contexts.get(name).and_then(Item::as_table) {
            *table.decor_mut() = old.decor().clone();
            table.set_position(old.position());
        }
        contexts.insert(name, Item::Table(table));
        Ok(())
    }

    /// Removes a context.
    pub(crate) fn remove(&mut self, name: &str) {
        let contexts = self.document.get_mut("context").and_then(Item::as_table_like_mut);
        let Some(removed) = contexts.and_then(|contexts| contexts.remove(name)) else { return };
        let above = text_of(removed.as_table().and_then(|table| table.decor().prefix()));
        // What a blank line separates from the context is not about it.
        if let Some((others, _)) = above.rsplit_once("\n\n").filter(|(others, _)| !others.trim().is_empty()) {
            self.keep_at_top(&format!("{others}\n"));
        }
    }

    /// Writes the file, which only its owner may read or change. After a crash it is the old one or the new one.
    pub(crate) fn save(self) -> Result<()> {
        let failed = |e: io::Error| cannot_write(&self.file.path, &e);
        // A link stays a link: what it points to is replaced.
        let path = self.file.path.canonicalize().unwrap_or_else(|_| self.file.path.clone());
        let (disk, directory) = (OsFileSystem::shared(), path.parent().unwrap_or(Path::new(".")));
        let temporary = path.with_extension(format!("toml.{}", std::process::id()));
        fs::remove_if_exists(&*disk, &temporary).map_err(failed)?;
        fs::create_small_output(&temporary, self.document.to_string().as_bytes(), true)?;
        disk.rename(&temporary, &path).map_err(failed)?;
        disk.sync_dir(directory).map_err(failed)
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Error {
    Error::io(format_args!("cannot write {}", path.display()), error)
}

fn text_of(comments: Option<&RawString>) -> String {
    comments.and_then(RawString::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a file becomes by a change.
    fn changed(text: &str, change: impl FnOnce(&mut ContextsEditor)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        if !text.is_empty() {
            fs::create_small_output(&path, text.as_bytes(), true).unwrap();
        }
        let mut editor = ContextsEditor::open_at(path.clone()).unwrap();
        change(&mut editor);
        editor.save().unwrap();
        ContextsFile::read(path).unwrap().text.unwrap()
    }

    fn at(data: &str) -> ContextEntry {
        ContextEntry { data: Some(data.into()), ..ContextEntry::default() }
    }

    #[test]
    fn a_new_file_begins_with_what_it_is() {
        let text = changed("", |editor| {
            let both = ContextEntry {
                writer: vec!["https://w:1".into(), "https://x:1".into()],
                token_file: Some("/a \"b\"".into()),
                ..ContextEntry::default()
            };
            editor.insert("prod", &both).unwrap();
            editor.set_current(Some("prod"));
        });
        let rest = text.strip_prefix(HEADING).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(
            rest,
            "current = \"prod\"\n\n[context.prod]\nwriter = [\"https://w:1\", \"https://x:1\"]\ntoken-file = '/a \"b\"'\n"
        );
    }

    #[test]
    fn comments_and_order_stay() {
        let text = "# Mine.\n\n# The one to be careful with.\n[context.z] # hot\ndata = \"/z\" # the fast disk\n\n# For tests.\n[context.a]\ndata = \"/a\"\n";
        let used = changed(text, |editor| editor.set_current(Some("a")));
        assert!(used.contains("current = \"a\"\n"), "{used}");
        for line in text.lines() {
            assert!(used.contains(line), "{line}: {used}");
        }
        let none = changed(&used, |editor| editor.set_current(None));
        assert_eq!(none.replace("\n\n", "\n"), text.replace("\n\n", "\n"));
        let replaced = changed(text, |editor| editor.insert("z", &at("/y")).unwrap());
        assert_eq!(replaced, text.replace("\"/z\" # the fast disk", "\"/y\""));
        let removed = changed(text, |editor| editor.remove("z"));
        assert!(removed.starts_with("# Mine.\n") && !removed.contains("careful"), "{removed}");
        assert!(removed.ends_with("# For tests.\n[context.a]\ndata = \"/a\"\n"), "{removed}");
        let heading = format!("{}current = \"a\"\n", HEADING.trim_end().to_owned() + "\n");
        assert!(changed(&heading, |editor| editor.set_current(None)).starts_with(HEADING.trim_end()));
        // Other ways to write the same.
        let inline =
            changed("context = { a = { data = \"/a\" } }\n", |editor| editor.insert("b", &at("/b")).unwrap());
        assert!(inline.contains("a = { data = \"/a\" }") && inline.contains("/b"), "{inline}");
    }
}
