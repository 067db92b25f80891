//! Finds cycles of files: file A uses an item of file B, and B one of A, perhaps by way of others.
//!
//! A file uses another one if it imports or names an item that the other one defines. Declaring a module, importing a
//! module without naming anything in it, and re-exporting an item are no uses: an item that `mod.rs` re-exports is used in
//! the file that defines it. Code for tests only does not count.

use std::collections::{BTreeMap, BTreeSet};

use super::modules::{Crate, Import, Module, read};

/// For each file, the files that it uses, each with the lines and paths by which it does.
type Uses = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// Every cycle in a crate, as a text of the files in it and of what each of them uses of the others.
pub fn cycles(root: &str, files: &BTreeMap<String, String>) -> Vec<String> {
    let uses = uses(&read(root, files));
    let mut found = Vec::new();
    for group in strongly_connected(&uses) {
        let mut text = format!("a cycle of {} files:", group.len());
        for file in &group {
            for (other, by) in uses[file].iter().filter(|(other, _)| group.contains(*other)) {
                text += &format!("\n    {file} -> {other}: {}", by.join(", "));
            }
        }
        found.push(text);
    }
    found
}

fn uses(modules: &Crate) -> Uses {
    let mut uses = Uses::new();
    for (path, module) in modules {
        let mut add = |found: Option<String>, line: usize, named: String| {
            let of = uses.entry(module.file.clone()).or_default();
            if let Some(other) = found.filter(|other| *other != module.file) {
                of.entry(other).or_default().push(format!("{named} (line {line})"));
            }
        };
        let file_of = |named: &[String]| match resolve(modules, path, named, &mut Seen::new()) {
            Some(Target::Item(file)) => Some(file),
            _ => None,
        };
        add(None, 0, String::new());
        for (name, import) in &module.imports {
            if !import.is_reexport || module.names.contains_key(name) {
                add(file_of(&import.path), import.line, import.path.join("::"));
            }
        }
        for named in &module.paths {
            // The import of its first name counts already, unless that is a module.
            let is_imported_item = module.imports.contains_key(&named.path[0])
                && !matches!(
                    resolve(modules, path, &named.path[..1], &mut Seen::new()),
                    Some(Target::Module(_))
                );
            if !is_imported_item {
                add(file_of(&named.path), named.line, named.path.join("::"));
            }
        }
        let own = |name: &str| {
            module.imports.contains_key(name) || module.items.contains(name) || module.children.contains(name)
        };
        for glob in module.globs.iter().filter(|glob| !glob.is_reexport) {
            for (name, line) in module.names.iter().filter(|(name, _)| !own(name)) {
                let named = [glob.path.clone(), vec![name.clone()]].concat();
                if exists(modules, path, &glob.path, name) {
                    add(file_of(&named), *line, named.join("::"));
                }
            }
        }
    }
    uses
}

/// The names that are being resolved.
type Seen = BTreeSet<(Vec<String>, String)>;

/// What a path names.
enum Target {
    Module(Vec<String>),
    /// An item, by the file that defines it.
    Item(String),
}

/// Whether a module, by its path as seen from another one, has a name.
fn exists(modules: &Crate, from: &[String], path: &[String], name: &str) -> bool {
    let Some(Target::Module(found)) = resolve(modules, from, path, &mut Seen::new()) else {
        return false;
    };
    member(modules, &found, name, &mut Seen::new()).is_some()
}

/// What a path names, as seen from a module; `None` if that is no part of this crate.
fn resolve(modules: &Crate, from: &[String], path: &[String], seen: &mut Seen) -> Option<Target> {
    let mut at = from.to_vec();
    let mut rest = path;
    let mut is_anchored = false;
    while let Some((first, after)) = rest.split_first() {
        match first.as_str() {
            "crate" => at.clear(),
            "self" => {}
            "super" => _ = at.pop()?,
            _ => break,
        }
        is_anchored = true;
        rest = after;
    }
    let mut first = true;
    while let Some((name, after)) = rest.split_first() {
        match member(modules, &at, name, seen) {
            Some(Target::Module(path)) => at = path,
            Some(item) => return Some(item),
            // Made by a macro, or of another crate.
            None if first && !is_anchored => return None,
            None => return Some(Target::Item(modules.get(&at)?.file.clone())),
        }
        rest = after;
        first = false;
    }
    Some(Target::Module(at))
}

/// What a name is in a module: defined there, or imported.
fn member(modules: &Crate, path: &[String], name: &str, seen: &mut Seen) -> Option<Target> {
    let module = modules.get(path)?;
    // Two modules may import each other's names.
    let key = (path.to_vec(), name.to_owned());
    if !seen.insert(key.clone()) {
        return None;
    }
    let found = member_of(modules, module, path, name, seen);
    seen.remove(&key);
    found
}

fn member_of(
    modules: &Crate,
    module: &Module,
    path: &[String],
    name: &str,
    seen: &mut Seen,
) -> Option<Target> {
    if module.items.contains(name) {
        return Some(Target::Item(module.file.clone()));
    }
    if module.children.contains(name) {
        return Some(Target::Module([path, &[name.to_owned()]].concat()));
    }
    if let Some(import) = module.imports.get(name) {
        // `use name;` and `use name::{self}` name what is outside of the module.
        let is_external = import.path.first().is_some_and(|first| first == name);
        return if is_external { None } else { resolve(modules, path, &import.path, seen) };
    }
    module.globs.iter().find_map(|Import { path: glob, .. }| {
        let Target::Module(of) = resolve(modules, path, glob, seen)? else { return None };
        member(modules, &of, name, seen)
    })
}

/// The groups of two files and more that reach each other.
fn strongly_connected(uses: &Uses) -> Vec<BTreeSet<String>> {
    let reached = |from: &str| {
        let mut reached = BTreeSet::new();
        let mut open = vec![from.to_owned()];
        while let Some(file) = open.pop() {
            for other in uses.get(&file).into_iter().flat_map(BTreeMap::keys) {
                if reached.insert(other.clone()) {
                    open.push(other.clone());
                }
            }
        }
        reached
    };
    let reached: BTreeMap<&String, BTreeSet<String>> =
        uses.keys().map(|file| (file, reached(file))).collect();
    let mut groups: Vec<BTreeSet<String>> = Vec::new();
    for file in uses.keys().filter(|file| reached[file].contains(*file)) {
        if !groups.iter().any(|group| group.contains(file)) {
            let back = |other: &&String| reached.get(*other).is_some_and(|of| of.contains(file));
            groups.push(reached[file].iter().filter(back).cloned().collect());
        }
    }
    groups
}
