//! `context`: lists, shows and changes the named databases of the user's configuration file.

use driftdb_common::error::{Error, Reason};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::args::{AddContextArgs, ContextArgs, ContextCommand, GivenOptions, GlobalArgs, UseContextArgs};
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
    let mut file = ContextsFile::open()?;
    match args.command {
        ContextCommand::List => list(&file, global, out),
        ContextCommand::Show { name } => show(&file, name, global, out),
        ContextCommand::Use(args) => switch(&mut file, args),
        ContextCommand::Add(args) => add(&mut file, args, global, given),
        ContextCommand::Remove { name } => remove(&mut file, &name),
    }
}

/// The context that other commands use now: the one that is named, or the current one.
fn in_use<'a>(file: &'a ContextsFile, global: &'a GlobalArgs) -> Option<&'a str> {
    let named = global.context.as_deref().or(file.content.current.as_deref());
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
    for (name, entry) in &file.content.context {
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

fn switch(file: &mut ContextsFile, args: UseContextArgs) -> CliResult {
    let name = args.name.filter(|_| !args.none);
    if let Some(name) = &name {
        file.named(name)?;
    }
    file.content.current.clone_from(&name);
    file.save()?;
    render::note(&match name {
        Some(name) => format!("the current context is {name:?}"),
        None => "no context is in use".to_owned(),
    });
    Ok(())
}

fn add(
    file: &mut ContextsFile,
    args: AddContextArgs,
    global: &GlobalArgs,
    given: &GivenOptions,
) -> CliResult {
    contexts::check_name(&args.name)?;
    if file.content.context.contains_key(&args.name) && !args.replace {
        let message = format!("context {:?} exists; --replace replaces it", args.name);
        return Err(Error::new(Reason::ArgumentInvalid, message).into());
    }
    let entry = ContextEntry::of_options(global, given)?;
    file.content.context.insert(args.name.clone(), entry);
    file.save()?;
    let hint = match file.content.current.as_ref() == Some(&args.name) {
        true => String::new(),
        false => format!("; `driftctl context use {}` makes it the current one", args.name),
    };
    render::note(&format!("context {:?} is in {}{hint}", args.name, file.path().display()));
    Ok(())
}

fn remove(file: &mut ContextsFile, name: &str) -> CliResult {
    file.named(name)?;
    file.content.context.remove(name);
    if file.content.current.as_deref() == Some(name) {
        file.content.current = None;
        render::note("note: it was the current context; no context is in use now");
    }
    Ok(file.save()?)
}
