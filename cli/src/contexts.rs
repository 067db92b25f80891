//! Named databases in the user's configuration file: where their daemons are, and how to connect to them.
//!
//! An option on the command line comes first, then its environment variable, then the context. The file says where tokens are sent, so,
//! as ssh does with its own, driftctl refuses a file that others may change, and token and key files that others may read.

use std::collections::BTreeMap;
use std::env;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use driftdb_common::error::{Error, Reason, Result, nearest};
use driftdb_common::service::config_file::line_of;
use driftdb_common::storage::fs;
use driftdb_common::storage::fs::ownership::foreign_access;
use serde::Deserialize;

use crate::args::{Format, GivenOptions, GlobalArgs, parse_time_zone};

pub(crate) mod editor;

/// A longer file is none of ours.
const FILE_BYTES: u64 = 1 << 20;
/// The longest name of a context.
const NAME_BYTES: usize = 64;

/// The content of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ContextsContent {
    /// The context in use if none is named.
    pub(crate) current: Option<String>,
    /// The contexts by name.
    pub(crate) context: BTreeMap<String, ContextEntry>,
}

/// One named database. The keys are those of the options.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct ContextEntry {
    pub(crate) writer: Vec<String>,
    pub(crate) reader: Vec<String>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) tls_ca: Option<PathBuf>,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    pub(crate) tls_server_name: Option<String>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) tz: Option<String>,
    pub(crate) output: Option<String>,
}

/// The file and where it is.
#[derive(Debug)]
pub(crate) struct ContextsFile {
    path: PathBuf,
    /// `None` if it does not exist.
    text: Option<String>,
    content: ContextsContent,
}

/// Where the file is; `None` if the environment names no directory for it.
fn path_of(var: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let config = var("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    let home = || var("HOME").filter(|path| path.is_absolute()).map(|home| home.join(".config"));
    Some(config.or_else(home)?.join("driftctl/config.toml"))
}

impl ContextsFile {
    /// Reads the file of this user. It is empty if it does not exist.
    pub(crate) fn open() -> Result<ContextsFile> {
        ContextsFile::read(ContextsFile::own_path()?)
    }

    fn own_path() -> Result<PathBuf> {
        path_of(|name| env::var_os(name).map(PathBuf::from)).ok_or_else(|| {
            invalid("there is no place for contexts: set HOME or XDG_CONFIG_HOME to an absolute path")
        })
    }

    fn read(path: PathBuf) -> Result<ContextsFile> {
        let text = read(&path)?;
        let content = text.as_deref().map(|text| parse(&path, text)).transpose()?.unwrap_or_default();
        Ok(ContextsFile { path, text, content })
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The contexts by name.
    pub(crate) fn contexts(&self) -> &BTreeMap<String, ContextEntry> {
        &self.content.context
    }

    /// The context in use if none is named.
    pub(crate) fn current(&self) -> Option<&str> {
        self.content.current.as_deref()
    }

    /// A context by its name.
    pub(crate) fn named(&self, name: &str) -> Result<&ContextEntry> {
        self.content.context.get(name).ok_or_else(|| {
            let near = nearest(name, self.content.context.keys().map(String::as_str));
            let near = near.map(|near| format!("; did you mean {near:?}?"));
            let hint = near.unwrap_or_else(|| format!("; `driftctl context add {name}` adds it"));
            invalid(format!("context {name:?} does not exist in {}{hint}", self.path.display()))
        })
    }
}

/// The text of the file; `None` if it does not exist. Fails if others may change it.
fn read(path: &Path) -> Result<Option<String>> {
    let failed = |e: &io::Error| Error::io(format_args!("cannot read {}", path.display()), e);
    let access = match foreign_access(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        // HOME is that of another user, as after a change of the user without a change of the environment.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        Err(e) => return Err(failed(&e)),
        Ok(access) => access,
    };
    if access.is_foreign {
        return Err(unsafe_file(path, "it belongs to another user", "make a file of your own"));
    }
    if access.is_writable {
        let what = format!("others may change it (its permissions are {:04o})", access.mode);
        return Err(unsafe_file(path, &what, &format!("run `chmod 600 {}`", path.display())));
    }
    let mut text = String::new();
    let read = fs::open_input(path)?.take(FILE_BYTES + 1).read_to_string(&mut text);
    read.map_err(|e| failed(&e))?;
    if text.len() as u64 > FILE_BYTES {
        return Err(invalid(format!("{}: the file has over {} MiB", path.display(), FILE_BYTES >> 20)));
    }
    Ok(Some(text))
}

fn parse(path: &Path, text: &str) -> Result<ContextsContent> {
    toml::from_str(text).map_err(|error| {
        let line = line_of(text, error.span().map_or(0, |span| span.start));
        invalid(format!("{}:{line}: {}", path.display(), error.message()))
    })
}

/// Fails if a file with a secret is one that others may read.
fn check_secret(path: &Path) -> Result<()> {
    // A file that is missing is reported when it is used.
    let Ok(access) = foreign_access(path) else { return Ok(()) };
    if access.is_readable || access.is_writable {
        let what = format!("others may read or change it (its permissions are {:04o})", access.mode);
        return Err(unsafe_file(path, &what, &format!("run `chmod 600 {}`", path.display())));
    }
    Ok(())
}

fn unsafe_file(path: &Path, what: &str, remedy: &str) -> Error {
    invalid(format!("cannot use {}: {what}; {remedy}", path.display()))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Reason::ArgumentInvalid, message)
}

/// Fails unless a context may have a name: it is a word in a prompt.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || name.len() > NAME_BYTES || !name.chars().all(is_allowed) {
        let message =
            format!("the name of a context has 1 to {NAME_BYTES} letters, digits or characters of _-.");
        return Err(invalid(message));
    }
    Ok(())
}

impl ContextEntry {
    /// A context of the options that were given on the command line. Paths become absolute.
    pub(crate) fn of_options(global: &GlobalArgs, given: &GivenOptions) -> Result<ContextEntry> {
        let absolute = |path: &PathBuf| {
            std::path::absolute(path)
                .map_err(|e| Error::io(format_args!("cannot use {}", path.display()), &e))
        };
        let path = |id: &str, path: &Option<PathBuf>| {
            path.as_ref().filter(|_| given.on_command_line(id)).map(absolute).transpose()
        };
        let list = |id: &str, list: &[String]| match given.on_command_line(id) {
            true => list.to_vec(),
            false => Vec::new(),
        };
        let tls = &global.tls;
        let entry = ContextEntry {
            writer: list("writer", &global.writer),
            reader: list("reader", &global.reader),
            data: path("data", &global.data)?,
            tls_ca: path("tls_ca", &tls.tls_ca)?,
            tls_cert: path("tls_cert", &tls.tls_cert)?,
            tls_key: path("tls_key", &tls.tls_key)?,
            tls_server_name: tls.tls_server_name.clone().filter(|_| given.on_command_line("tls_server_name")),
            token_file: path("token_file", &global.token_file)?,
            tz: global.tz.clone().filter(|_| given.on_command_line("tz")),
            output: global.output.filter(|_| given.on_command_line("output")).map(format_name),
        };
        if entry.data.is_some() && !(entry.writer.is_empty() && entry.reader.is_empty()) {
            return Err(invalid("a context has either --data or --writer and --reader"));
        }
        if entry == ContextEntry::default() {
            return Err(invalid(
                "the context has no options: name the daemons, for example with --writer URL --reader URL, or a directory with --data DIR",
            ));
        }
        entry.check()?;
        Ok(entry)
    }

    /// Each key that has a value, with its values as text.
    pub(crate) fn settings(&self) -> Vec<(&'static str, Vec<String>)> {
        let path = |path: &Option<PathBuf>| path.iter().map(|path| path.display().to_string()).collect();
        let text = |text: &Option<String>| text.iter().cloned().collect();
        let all: [(&'static str, Vec<String>); 10] = [
            ("writer", self.writer.clone()),
            ("reader", self.reader.clone()),
            ("data", path(&self.data)),
            ("tls-ca", path(&self.tls_ca)),
            ("tls-cert", path(&self.tls_cert)),
            ("tls-key", path(&self.tls_key)),
            ("tls-server-name", text(&self.tls_server_name)),
            ("token-file", path(&self.token_file)),
            ("tz", text(&self.tz)),
            ("output", text(&self.output)),
        ];
        all.into_iter().filter(|(_, values)| !values.is_empty()).collect()
    }

    /// Fails if a value is none that its option takes, or a file with a secret is open to others.
    fn check(&self) -> Result<()> {
        if let Some(tz) = &self.tz {
            parse_time_zone(tz).map_err(|why| invalid(format!("tz: {why}")))?;
        }
        self.format()?;
        self.token_file.iter().chain(&self.tls_key).try_for_each(|path| check_secret(path))
    }

    fn format(&self) -> Result<Option<Format>> {
        let parsed = |text: &String| Format::from_str(text, false);
        let found = self.output.as_ref().map(parsed).transpose();
        found.map_err(|_| {
            let names = Format::value_variants().iter().map(|format| format_name(*format));
            let names = names.collect::<Vec<_>>().join(", ");
            invalid(format!("output = {:?} is none of {names}", self.output.as_deref().unwrap_or_default()))
        })
    }

    /// What is left of a context for a database that is not its own: how to print, and whom to trust. A token or a key goes to no other
    /// address than those of its context, and a command reads and writes one database.
    fn without_database(&self) -> ContextEntry {
        let ContextEntry { tls_ca, tz, output, .. } = self.clone();
        ContextEntry { tls_ca, tz, output, ..ContextEntry::default() }
    }

    /// Gives options the values of the context, unless they have others. `directory` is where relative paths begin.
    fn apply(&self, global: &mut GlobalArgs, given: &GivenOptions, directory: &Path) -> Result<()> {
        // Whoever names daemons does not mean the context's directory, and the other way round.
        let is_addressed = !(global.writer.is_empty() && global.reader.is_empty());
        let path = |path: &PathBuf| directory.join(path);
        if global.data.is_none() && !is_addressed {
            global.data = self.data.as_ref().map(path);
        }
        let list = |own: &mut Vec<String>, of_context: &[String]| {
            if own.is_empty() {
                own.extend_from_slice(of_context);
            }
        };
        list(&mut global.writer, &self.writer);
        list(&mut global.reader, &self.reader);
        let file = |own: &mut Option<PathBuf>, of_context: &Option<PathBuf>| {
            if own.is_none() {
                *own = of_context.as_ref().map(path);
            }
        };
        file(&mut global.tls.tls_ca, &self.tls_ca);
        file(&mut global.tls.tls_cert, &self.tls_cert);
        file(&mut global.tls.tls_key, &self.tls_key);
        file(&mut global.token_file, &self.token_file);
        if global.tls.tls_server_name.is_none() {
            global.tls.tls_server_name.clone_from(&self.tls_server_name);
        }
        if !given.has("tz") {
            global.tz.clone_from(&self.tz);
        }
        if !given.has("output") {
            global.output = self.format()?;
        }
        Ok(())
    }
}

fn format_name(format: Format) -> String {
    format.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Takes back what the environment has of a database: a context that is named on the command line is the database that is meant, and its token
/// goes to no other. What is on the command line itself stays.
fn forget_environment(global: &mut GlobalArgs, given: &GivenOptions) {
    let is_of_environment = |id: &str| given.has(id) && !given.on_command_line(id);
    if is_of_environment("data") {
        global.data = None;
    }
    if is_of_environment("writer") {
        global.writer.clear();
    }
    if is_of_environment("reader") {
        global.reader.clear();
    }
    let files = [
        ("token_file", &mut global.token_file),
        ("tls_ca", &mut global.tls.tls_ca),
        ("tls_cert", &mut global.tls.tls_cert),
        ("tls_key", &mut global.tls.tls_key),
    ];
    for (id, file) in files {
        if is_of_environment(id) {
            *file = None;
        }
    }
    if is_of_environment("tls_server_name") {
        global.tls.tls_server_name = None;
    }
}

/// Gives options the values of the context that is named, or else of the current one if `uses_current` is set, unless they have others.
/// An empty name means no context. Afterwards `global.context` is the name of the context in use.
pub(crate) fn apply(global: &mut GlobalArgs, given: &GivenOptions, uses_current: bool) -> Result<()> {
    let is_named = given.on_command_line("context");
    if global.context.as_ref().is_some_and(String::is_empty) || !(is_named || uses_current) {
        global.context = None;
        return Ok(());
    }
    let named = global.context.take();
    let file = match (ContextsFile::open(), &named) {
        (Ok(file), _) => file,
        // Without a place for the file there is no current context.
        (Err(_), None) if path_of(|name| env::var_os(name).map(PathBuf::from)).is_none() => return Ok(()),
        (Err(error), _) => return Err(error),
    };
    let Some(name) = named.or_else(|| file.content.current.clone()) else { return Ok(()) };
    let entry = file.named(&name)?;
    let directory = file.path.parent().unwrap_or(Path::new("."));
    let of_others = ["writer", "reader", "data"].iter().any(|id| given.has(id));
    let entry = match of_others && !is_named {
        true => &entry.without_database(),
        false => entry,
    };
    if is_named {
        forget_environment(global, given);
    }
    let applied = entry.check().and_then(|()| entry.apply(global, given, directory));
    applied.map_err(|e| e.context(format_args!("context {name:?} in {}", file.path.display())))?;
    global.context = Some(name);
    Ok(())
}

#[cfg(test)]
mod tests;
