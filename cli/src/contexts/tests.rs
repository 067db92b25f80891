//! Tests of the contexts: the file, and the precedence of options.

use super::*;
use crate::args;

fn options(line: &[&str]) -> (GlobalArgs, GivenOptions) {
    let words = ["driftctl"].iter().chain(line).chain(&["status"]);
    let matches = args::command().try_get_matches_from(words).unwrap();
    (args::from_matches(&matches).unwrap().global, GivenOptions::of(&matches))
}

const FILE: &str = r#"
current = "prod"
[context.prod]
writer = ["https://w:1", "https://x:1"]
reader = ["https://r:2"]
tls-ca = "ca.pem"
tz = "Europe/Berlin"
output = "json"
[context.local]
data = "/d"
"#;

fn content() -> ContextsContent {
    parse(Path::new("config.toml"), FILE).unwrap()
}

#[test]
fn an_option_comes_before_the_context() {
    let content = content();
    let applied = |name: &str, line: &[&str]| {
        let (mut global, given) = options(line);
        content.context[name].apply(&mut global, &given, Path::new("/c")).unwrap();
        global
    };
    let global = applied("prod", &[]);
    assert_eq!(global.writer, ["https://w:1", "https://x:1"]);
    assert_eq!(
        (global.reader, global.tls.tls_ca),
        (vec!["https://r:2".to_owned()], Some("/c/ca.pem".into()))
    );
    assert_eq!((global.tz.as_deref(), global.output), (Some("Europe/Berlin"), Some(Format::Json)));
    let global = applied("prod", &["--writer", "http://z", "-o", "csv", "--tz", "UTC"]);
    assert_eq!((global.writer, global.output), (vec!["http://z".to_owned()], Some(Format::Csv)));
    assert_eq!((global.reader, global.tz.as_deref()), (vec!["https://r:2".to_owned()], Some("UTC")));
    // A directory and addresses exclude each other, whatever names them.
    assert_eq!(applied("local", &[]).data, Some("/d".into()));
    assert_eq!(applied("local", &["--reader", "http://z"]).data, None);
    assert_eq!(applied("prod", &["-d", "here"]).data, Some("here".into()));
}

#[test]
fn a_database_that_is_not_the_contexts_gets_neither_its_secrets_nor_its_daemons() {
    let path = || Some(PathBuf::from("/secret"));
    let entry = ContextEntry {
        tls_cert: path(),
        tls_key: path(),
        token_file: path(),
        tls_server_name: Some("w".into()),
        ..content().context["prod"].clone()
    };
    let (mut global, given) = options(&["--reader", "https://other"]);
    entry.without_database().apply(&mut global, &given, Path::new("/c")).unwrap();
    assert_eq!((global.writer, global.reader), (Vec::new(), vec!["https://other".to_owned()]));
    assert_eq!((global.token_file, global.tls.tls_cert, global.tls.tls_key), (None, None, None));
    assert_eq!(global.tls.tls_server_name, None);
    assert_eq!((global.tls.tls_ca, global.output), (Some("/c/ca.pem".into()), Some(Format::Json)));
}

#[test]
fn a_context_is_made_of_options() {
    let (global, given) = options(&["--writer", "a,b", "--token-file", "/t", "-o", "vertical"]);
    let entry = ContextEntry::of_options(&global, &given).unwrap();
    assert_eq!(entry.writer, ["a", "b"]);
    assert_eq!((entry.token_file, entry.output.as_deref()), (Some("/t".into()), Some("vertical")));
}

#[test]
fn an_invalid_file_or_context_is_named_with_its_line() {
    for (text, line, what) in [
        ("curent = \"a\"", 1, "unknown field `curent`"),
        ("[context.a]\nwrite = [\"x\"]", 2, "unknown field `write`"),
        ("[context.a]\nwriter = 7", 2, "expected"),
        ("[context.a", 1, ""),
    ] {
        let error = parse(Path::new("config.toml"), text).unwrap_err();
        assert!(error.message().starts_with(&format!("config.toml:{line}: ")), "{text}: {error}");
        assert!(error.message().contains(what), "{text}: {error}");
    }
    let file = ContextsFile { path: "config.toml".into(), text: None, content: content() };
    let error = file.named("prdo").unwrap_err();
    assert!(error.message().contains("did you mean \"prod\"?"), "{error}");
    assert!(file.named("other").unwrap_err().message().contains("driftctl context add other"));
    for wrong in ["", "a b", "a/b", "é"] {
        assert!(check_name(wrong).is_err(), "{wrong}");
    }
    let bad = ContextEntry { tz: Some("Mars".into()), ..ContextEntry::default() };
    assert!(bad.check().is_err());
    let bad = ContextEntry { output: Some("xml".into()), ..ContextEntry::default() };
    assert!(bad.check().unwrap_err().message().contains("table, vertical, json, jsonl, csv"));
}

#[test]
fn a_context_needs_options_and_not_those_that_exclude_each_other() {
    let entry = |line: &[&str]| {
        let (global, given) = options(line);
        ContextEntry::of_options(&global, &given)
    };
    assert!(entry(&[]).unwrap_err().message().contains("--writer URL"));
    assert!(entry(&["-d", "x", "--writer", "y"]).is_err());
    assert!(entry(&["-d", "x"]).unwrap().data.unwrap().is_absolute());
}

#[test]
fn the_file_is_where_the_environment_says() {
    let of = |pairs: &[(&str, &str)]| {
        path_of(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value)))
    };
    assert_eq!(of(&[("HOME", "/h")]), Some("/h/.config/driftctl/config.toml".into()));
    assert_eq!(of(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")]), Some("/x/driftctl/config.toml".into()));
    assert_eq!(
        of(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "x")]),
        Some("/h/.config/driftctl/config.toml".into())
    );
    assert_eq!(of(&[]), None);
}
