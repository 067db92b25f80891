//! Reads Rust sources into modules: what each one declares, defines, imports and names. No more of the language is needed
//! to tell which file uses which.
//!
//! A real parser would know more, and would be one more dependency for one test. What this one does not see: names made by
//! macros, and methods that another file adds to a type.

use std::collections::{BTreeMap, BTreeSet};

use super::lexer::{code_of, is_word};

/// A module, in a file of its own or inline.
#[derive(Debug, Default)]
pub struct Module {
    /// The file it is in, by its path from the top of the repository.
    pub file: String,
    /// The names of the modules that it declares.
    pub children: BTreeSet<String>,
    /// The names of the items that it defines.
    pub items: BTreeSet<String>,
    /// What it imports: the name in this module, the path, and where.
    pub imports: BTreeMap<String, Import>,
    /// The modules of which it imports every name.
    pub globs: Vec<Import>,
    /// Paths of two names and more in its code.
    pub paths: Vec<Import>,
    /// Every name in its code outside of imports, each with a line.
    pub names: BTreeMap<String, usize>,
}

/// A path, and the line that has it.
#[derive(Debug, Clone)]
pub struct Import {
    pub path: Vec<String>,
    pub line: usize,
    /// `pub use`: for others, so no use by this file alone.
    pub is_reexport: bool,
}

/// Modules by their path from the crate's root, which is `[]`.
pub type Crate = BTreeMap<Vec<String>, Module>;

/// Reads the modules of a crate, from its root file on. Modules that only tests have are left out.
pub fn read(root: &str, files: &BTreeMap<String, String>) -> Crate {
    let mut modules = Crate::new();
    let mut open = vec![(Vec::new(), root.to_owned())];
    while let Some((path, file)) = open.pop() {
        let Some(text) = files.get(&file) else { continue };
        let code = code_of(text);
        let mut parser = Parser { tokens: tokens(&code), at: 0, modules: &mut modules, files: Vec::new() };
        parser.module(path, &file);
        let directory = directory(&file);
        for child in parser.files {
            let name = child.last().unwrap();
            let candidates = [format!("{directory}/{name}.rs"), format!("{directory}/{name}/mod.rs")];
            if let Some(found) = candidates.into_iter().find(|candidate| files.contains_key(candidate)) {
                open.push((child, found));
            }
        }
    }
    modules
}

/// Where the modules lie that a file declares.
fn directory(file: &str) -> String {
    let (directory, name) = file.rsplit_once('/').unwrap_or(("", file));
    match name {
        "lib.rs" | "main.rs" | "mod.rs" => directory.to_owned(),
        _ => file.trim_end_matches(".rs").to_owned(),
    }
}

/// The types that a source defines, tests included, each with its line: structs, enums, unions, traits and aliases. The
/// types of a trait and its implementations are not types of their own.
pub fn types(text: &str) -> Vec<(String, usize)> {
    let code = code_of(text);
    let tokens = tokens(&code);
    let mut found = Vec::new();
    // For each open brace, whether it is that of an `impl` or a `trait`.
    let mut open: Vec<bool> = Vec::new();
    let mut next_is_impl = false;
    for (at, token) in tokens.iter().enumerate() {
        match token.text {
            "impl" | "trait" if is_item_start(&tokens, at) => next_is_impl = true,
            "{" => open.push(std::mem::take(&mut next_is_impl)),
            "}" => _ = open.pop(),
            ";" => next_is_impl = false,
            _ => {}
        }
        let is_type = match token.text {
            "struct" | "enum" | "union" | "trait" => is_item_start(&tokens, at),
            "type" => open.last() != Some(&true) && is_item_start(&tokens, at),
            _ => false,
        };
        if let Some(name) = tokens.get(at + 1).filter(|name| is_type && name.text.starts_with(is_word)) {
            found.push((name.text.to_owned(), name.line));
        }
    }
    found
}

/// Whether a keyword begins an item, and is no `impl Trait` in a signature, for example.
fn is_item_start(tokens: &[Token], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|at| tokens.get(at)).map_or("", |token| token.text);
    matches!(before, "" | ";" | "}" | "{" | "]" | ")" | "pub" | "unsafe" | "auto")
}

#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// The words and signs of a source. `::` is one sign, and so is each other character.
fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    for (line, text) in code.lines().enumerate() {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let len = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            tokens.push(Token { text: &rest[..len], line: line + 1 });
            rest = rest[len..].trim_start();
        }
    }
    tokens
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    modules: &'a mut Crate,
    /// The modules declared here that are in files of their own.
    files: Vec<Vec<String>>,
}

impl<'a> Parser<'a> {
    fn peek(&self, ahead: usize) -> &'a str {
        self.tokens.get(self.at + ahead).map_or("", |token| token.text)
    }

    fn line(&self) -> usize {
        self.tokens.get(self.at).map_or(0, |token| token.line)
    }

    /// Reads a module up to its closing brace or the end of the file.
    fn module(&mut self, path: Vec<String>, file: &str) {
        let mut module = Module { file: file.to_owned(), ..Module::default() };
        // The braces of items that are open.
        let mut depth = 0;
        let mut is_public = false;
        while self.at < self.tokens.len() {
            match self.peek(0) {
                "#" => {
                    if self.attribute() == "cfg(test)" {
                        self.skip_item();
                    }
                    continue;
                }
                "}" if depth == 0 => break,
                "}" => depth -= 1,
                "{" => depth += 1,
                "pub" => {
                    is_public = true;
                    self.at += 1;
                    self.skip_group("(", ")");
                    continue;
                }
                "use" => {
                    self.at += 1;
                    self.use_tree(&mut module, Vec::new(), is_public);
                    is_public = false;
                    continue;
                }
                "mod" if depth == 0 => {
                    let name = self.peek(1).to_owned();
                    module.children.insert(name.clone());
                    let child = [path.clone(), vec![name]].concat();
                    self.at += 2;
                    if self.peek(0) == "{" {
                        self.at += 1;
                        self.module(child, file);
                    } else {
                        self.files.push(child);
                    }
                }
                "struct" | "enum" | "union" | "trait" | "type" | "fn" | "const" | "static" if depth == 0 => {
                    let name = if self.peek(1) == "mut" { self.peek(2) } else { self.peek(1) };
                    module.items.insert(name.to_owned());
                }
                "macro_rules" => _ = module.items.insert(self.peek(2).to_owned()),
                word if word.starts_with(is_word) => {
                    self.path(&mut module);
                    is_public = false;
                    continue;
                }
                _ => {}
            }
            is_public = false;
            self.at += 1;
        }
        self.modules.insert(path, module);
    }

    /// Reads an attribute, and returns what it says.
    fn attribute(&mut self) -> String {
        self.at += 1;
        if self.peek(0) == "!" {
            self.at += 1;
        }
        let from = self.at + 1;
        self.skip_group("[", "]");
        self.tokens[from..(self.at - 1).max(from)].iter().map(|token| token.text).collect()
    }

    /// Skips a group, if one begins here.
    fn skip_group(&mut self, open: &str, close: &str) {
        let mut depth = 0;
        while self.at < self.tokens.len() {
            depth += i32::from(self.peek(0) == open) - i32::from(self.peek(0) == close);
            if depth == 0 && self.peek(0) != close {
                return;
            }
            self.at += 1;
            if depth == 0 {
                return;
            }
        }
    }

    /// Skips an item, up to its semicolon or closing brace.
    fn skip_item(&mut self) {
        let mut generics = 0;
        while self.at < self.tokens.len() {
            match self.peek(0) {
                "#" => {
                    self.attribute();
                    continue;
                }
                "(" => {
                    self.skip_group("(", ")");
                    continue;
                }
                "{" => return self.skip_group("{", "}"),
                "<" => generics += 1,
                ">" if self.tokens[self.at - 1].text != "-" => generics -= 1,
                "," if generics == 0 => return self.at += 1,
                ";" => return self.at += 1,
                _ => {}
            }
            self.at += 1;
        }
    }

    /// Reads `a::{b, c as d, e::*}` up to what ends it.
    fn use_tree(&mut self, module: &mut Module, mut path: Vec<String>, is_reexport: bool) {
        let line = self.line();
        loop {
            match self.peek(0) {
                "::" => self.at += 1,
                "*" => {
                    self.at += 1;
                    module.globs.push(Import { path, line, is_reexport });
                    return self.end_of_tree();
                }
                "{" => {
                    self.at += 1;
                    while !matches!(self.peek(0), "}" | "") {
                        self.use_tree(module, path.clone(), is_reexport);
                    }
                    self.at += 1;
                    return self.end_of_tree();
                }
                "as" => {
                    let name = self.peek(1).to_owned();
                    self.at += 2;
                    module.imports.insert(name, Import { path, line, is_reexport });
                    return self.end_of_tree();
                }
                "self" if !path.is_empty() => self.at += 1,
                word if word.starts_with(is_word) => {
                    path.push(word.to_owned());
                    self.at += 1;
                }
                _ => {
                    if let Some(name) = path.last().cloned() {
                        module.imports.insert(name, Import { path, line, is_reexport });
                    }
                    return self.end_of_tree();
                }
            }
        }
    }

    fn end_of_tree(&mut self) {
        if matches!(self.peek(0), "," | ";") {
            self.at += 1;
        }
    }

    /// Reads a path in code: one name, or several with `::` between them.
    fn path(&mut self, module: &mut Module) {
        let line = self.line();
        let is_field = self.at > 0 && self.tokens[self.at - 1].text == ".";
        let mut path = vec![self.peek(0).to_owned()];
        self.at += 1;
        while self.peek(0) == "::" && self.peek(1).starts_with(is_word) {
            path.push(self.peek(1).to_owned());
            self.at += 2;
        }
        if is_field {
            return;
        }
        module.names.entry(path[0].clone()).or_insert(line);
        if path.len() > 1 {
            module.paths.push(Import { path, line, is_reexport: false });
        }
    }
}
