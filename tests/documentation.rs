//! Checks of the documentation: a row for each reason, a target for each link, walks over functions that exist, short first pages.

#![expect(clippy::disallowed_methods, reason = "this test reads the sources, not a database")]

use std::collections::HashSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use driftdb_common::error::Reason;
use driftdb_common::service::status::code;

/// The maximum number of lines of README.md and ARCHITECTURE.md.
const LINES_MAX: usize = 200;

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(path: impl AsRef<Path>) -> String {
    let path = top().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every page of the documentation, by its path from the top.
fn pages() -> Vec<PathBuf> {
    let named = [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "common/FORMAT.md",
    ];
    let guides = ["docs", "docs/operations"].into_iter().flat_map(|directory| {
        let entries = fs::read_dir(top().join(directory)).unwrap().map(|entry| entry.unwrap().file_name());
        entries.map(move |name| Path::new(directory).join(name))
    });
    let guides = guides.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    named.into_iter().map(PathBuf::from).chain(guides).collect()
}

#[test]
fn every_reason_has_a_row_with_its_code() {
    let errors = page("docs/errors.md");
    let missing = Reason::ALL.iter().filter(|reason| {
        let code = format!("{:?}", code(reason.kind()));
        let row = errors.lines().find(|line| line.starts_with(&format!("| `{}` | `", reason.as_str())));
        // The page spells codes as gRPC does: NOT_FOUND for NotFound.
        row.and_then(|row| row.split('`').nth(3)).map(|code| code.replace('_', "").to_lowercase())
            != Some(code.to_lowercase())
    });
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&Reason>::new());
}

#[test]
fn the_first_pages_are_short() {
    for name in ["README.md", "ARCHITECTURE.md"] {
        let lines = page(name).lines().count();
        assert!(lines <= LINES_MAX, "{name} has {lines} lines, over {LINES_MAX}");
    }
}

/// The steps of each walk in ARCHITECTURE.md: `| number | file | function | what happens |`.
fn walks(architecture: &str) -> Vec<Vec<(String, String)>> {
    let mut walks: Vec<Vec<(String, String)>> = Vec::new();
    for row in architecture.lines().filter_map(|line| line.strip_prefix("| ")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [number, file, function, ..] = cells[..] else { continue };
        let Ok(number) = number.parse::<usize>() else { continue };
        if number == 1 {
            walks.push(Vec::new());
        }
        let step = (file.trim_matches('`').to_owned(), function.trim_matches('`').to_owned());
        walks.last_mut().expect("a walk starts with step 1").push(step);
    }
    walks
}

#[test]
fn the_walks_name_functions_that_exist_and_never_return_to_a_file() {
    let walks = walks(&page("ARCHITECTURE.md"));
    assert_eq!(walks.len(), 4);
    for walk in walks {
        assert!((3..=10).contains(&walk.len()), "a walk has {} steps", walk.len());
        let files: HashSet<&String> = walk.iter().map(|(file, _)| file).collect();
        assert_eq!(files.len(), walk.len(), "a walk returns to a file: {walk:?}");
        for (file, function) in &walk {
            let source = page(file);
            let declaration = format!("fn {function}");
            let declared = source.match_indices(&declaration);
            let mut ends = declared.map(|(at, name)| source[at + name.len()..].chars().next());
            assert!(ends.any(|next| matches!(next, Some('(' | '<'))), "{file} has no function {function}");
        }
    }
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut broken = Vec::new();
    for from in pages() {
        for link in links(&prose(&page(&from))) {
            if link.contains("://") {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((&link, ""));
            let to = match path {
                "" => from.clone(),
                path => normal(&from.parent().unwrap_or(Path::new("")).join(path)),
            };
            let found = top().join(&to).exists();
            if !found || (!heading.is_empty() && !headings(&prose(&page(&to))).contains(heading)) {
                broken.push(format!("{}: {link}", from.display()));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}

/// A page without its blocks of code.
fn prose(text: &str) -> String {
    let outside = text.split("```").step_by(2);
    outside.collect()
}

/// What stands between `](` and `)`.
fn links(text: &str) -> Vec<String> {
    let after = text.split("](").skip(1);
    after.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

/// The anchors that GitHub gives a page's headings.
fn headings(text: &str) -> HashSet<String> {
    let titles = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |title: &str| {
        let title = title.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        title.chars().filter(|c| c.is_alphanumeric() || ['-', '_'].contains(c)).collect()
    };
    titles.map(anchor).collect()
}

/// A path without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => _ = normal.pop(),
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}
