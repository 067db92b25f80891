//! `context`: lists, shows and changes the named databases of the user's configuration file.

use driftdb_common::error::{Error, Reason};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::args::{AddContextArgs, ContextArgs, ContextCommand, GivenOptions, GlobalArgs, UseContextArgs};
use crate::contexts::editor::ContextsEditor;
use crate::contexts::{self, ContextEntry, ContextsFile};
use crate::exit::CliResult;
use crate::render::{self, Printer};
use crate::shapes;

/// Runs what the user asks for.
pub(crate) fn run(
    args: ContextArgs,
    global: &GlobalArgs,
    given: &GivenOptions,
    out: &mut Printer,
) -> CliResult {
    match args.command {
        ContextCommand::List => list(&ContextsFile::open()?, global, out),
        ContextCommand::Show { name } => show(&ContextsFile::open()?, name, global, out),
        ContextCommand::Use(args) => switch(ContextsEditor::open()?, args),
        ContextCommand::Add(args) => add(ContextsEditor::open()?, args, global, given),
        ContextCommand::Remove { name } => remove(ContextsEditor::open()?, &name),
    }
}

/// The context that other commands use now: the one that is named, or the current one.
fn in_use<'a>(file: &'a ContextsFile, global: &'a GlobalArgs) -> Option<&'a str> {
    let named = global.context.as_deref().or(file.current());
    named.filter(|name| !name.is_empty())
}

/// A context as it is printed.
#[derive(Serialize)]
struct ContextRecord<'a> {
    name: &'a str,
    current: bool,
    #[serde(flatten)]
    settings: Map<String, Value>,
}

fn record(name: &str, entry: &ContextEntry, current: bool) -> CliResult<String> {
    let mut settings = Map::new();
    for (key, values) in entry.settings() {
        let value = match key {
            "writer" | "reader" => Value::from(values),
            _ => Value::from(values.concat()),
        };
        settings.insert(key.replace('-', "_"), value);
    }
    Ok(shapes::line(&ContextRecord { name, current, settings })?)
}

fn list(file: &ContextsFile, global: &GlobalArgs, out: &mut Printer) -> CliResult {
    let current = in_use(file, global);
    for (name, entry) in file.contexts() {
        out.print_record(&record(name, entry, current == Some(name.as_str()))?)?;
    }
    out.end_rows()
}

fn show(file: &ContextsFile, name: Option<String>, global: &GlobalArgs, out: &mut Printer) -> CliResult {
    let current = in_use(file, global);
    let Some(name) = name.as_deref().or(current) else {
        let message = "no context is in use; name one, or use one with `driftctl context use NAME`";
        return Err(Error::new(Reason::ArgumentInvalid, message).into());
    };
    out.print_record(&record(name, file.named(name)?, current == Some(name))?)
}

fn switch(mut editor: ContextsEditor, args: UseContextArgs) -> CliResult {
    let name = args.name.filter(|_| !args.none);
    if let Some(name) = &name {
        editor.file().named(name)?;
    }
    editor.set_current(name.as_deref());
    editor.save()?;
    render::note(&match name {
        Some(name) => format!("the current context is {name:?}"),
        None => "no context is in use".to_owned(),
    });
    Ok(())
}

fn add(
    mut editor: ContextsEditor,
    args: AddContextArgs,
    global: &GlobalArgs,
    given: &GivenOptions,
) -> CliResult {
    contexts::check_name(&args.name)?;
    if editor.file().contexts().contains_key(&args.name) && !args.replace {
        let message = format!("context {:?} exists; --replace replaces it", args.name);
        return Err(Error::new(Reason::ArgumentInvalid, message).into());
    }
    editor.insert(&args.name, &ContextEntry::of_options(global, given)?)?;
    let hint = match editor.file().current() == Some(&args.name) {
        true => String::new(),
        false => format!("; `driftctl context use {}` makes it the current one", args.name),
    };
    let note = format!("context {:?} is in {}{hint}", args.name, editor.file().path().display());
    editor.save()?;
    render::note(&note);
    Ok(())
}

fn remove(mut editor: ContextsEditor, name: &str) -> CliResult {
    editor.file().named(name)?;
    editor.remove(name);
    if editor.file().current() == Some(name) {
        editor.set_current(None);
        render::note("note: it was the current context; no context is in use now");
    }
    Ok(editor.save()?)
}
