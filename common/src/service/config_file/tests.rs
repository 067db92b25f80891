//! Tests of the precedence of options, and of the errors of a file.

use super::*;

/// Options of each kind.
#[derive(Debug, Parser)]
struct SampleOptions {
    #[arg(long, env = "SAMPLE_DIR", required = true)]
    dir: PathBuf,
    #[arg(long, env = "SAMPLE_SIZE", default_value_t = 10, value_parser = clap::value_parser!(u64).range(4..))]
    size: u64,
    #[arg(long, env = "SAMPLE_QUIET")]
    quiet: bool,
    #[arg(long, requires = "key")]
    cert: Option<String>,
    #[arg(long, requires = "cert")]
    key: Option<String>,
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<String>,
    #[arg(long, hide_env_values = true)]
    secret: Option<String>,
    #[arg(long, value_enum, default_value = "auto")]
    color: clap::ColorChoice,
}

fn parsed(file: &str, options: &[&str]) -> Result<ParsedOptions<SampleOptions>, clap::Error> {
    let line = ["sample", "--config=sample.toml"].into_iter().chain(options.iter().copied());
    try_parse(line.map(OsString::from).collect(), |_| false, |_| Ok(file.to_owned()))
}

fn run(file: &str, options: &[&str]) -> SampleOptions {
    match parsed(file, options).unwrap() {
        ParsedOptions::Run(options) => options,
        ParsedOptions::Print(text) => panic!("{text}"),
    }
}

fn printed(file: &str, options: &[&str]) -> String {
    match parsed(file, &[options, &["--print-config"]].concat()).unwrap() {
        ParsedOptions::Run(options) => panic!("{options:?}"),
        ParsedOptions::Print(text) => text,
    }
}

#[test]
fn the_command_line_comes_before_the_file_and_the_file_before_the_default() {
    let options = run("dir = \"a\"\nsize = 0x20\nquiet = true\nkinds = [\"x\", \"y\"]\n", &[]);
    assert_eq!((options.dir, options.size, options.quiet), ("a".into(), 32, true));
    assert_eq!(options.kinds, ["x", "y"]);
    let options = run("dir = \"a\"\nsize = 32\nkinds = [\"x\"]\n", &["--dir=b", "--kinds=z"]);
    assert_eq!((options.dir, options.size, options.kinds), ("b".into(), 32, vec!["z".to_owned()]));
    assert_eq!(run("", &["--dir=b"]).size, 10);
    assert!(!run("quiet = false", &["--dir=b"]).quiet);
}

#[test]
fn a_variable_of_the_environment_comes_before_the_file() {
    let line = ["sample", "--config=sample.toml", "--dir=b"].map(OsString::from).to_vec();
    let file = "dir = \"a\"\nsize = 32\n".to_owned();
    let parsed = try_parse::<SampleOptions>(line, |name| name == "SAMPLE_SIZE", |_| Ok(file.clone()));
    // The variable is not set here, so what is left is the default: the file was not asked.
    let ParsedOptions::Run(options) = parsed.unwrap() else { panic!() };
    assert_eq!((options.dir, options.size), ("b".into(), 10));
}

#[test]
fn rules_between_options_hold_wherever_the_values_are_from() {
    let options = run("dir = \"a\"\ncert = \"c\"\n", &["--key=k"]);
    assert_eq!((options.cert.as_deref(), options.key.as_deref()), (Some("c"), Some("k")));
    assert!(parsed("dir = \"a\"\ncert = \"c\"\n", &[]).is_err());
    assert!(parsed("size = 32\n", &[]).is_err(), "--dir is required");
}

#[test]
fn an_error_names_the_file_the_line_the_key_and_what_is_near() {
    for (text, line, what) in [
        ("\nsiez = 5\n", 2, "unknown key \"siez\"; did you mean \"size\"?"),
        ("print-config = true\n", 1, "\"print-config\" can only be given on the command line"),
        ("print_config = true\n", 1, "unknown key \"print_config\"; --help lists the options"),
        ("# x\n\nsize = 3\n", 3, "invalid value \"3\" for \"size\": 3 is not in 4.."),
        ("size = \"many\"\n", 1, "invalid value \"many\" for \"size\": invalid digit"),
        ("size = true\n", 1, "for \"size\": expected a text in quotes, or a number, found a truth value"),
        ("quiet = 1\n", 1, "for \"quiet\": expected true or false, found a text or a number"),
        ("dir = [\"a\"]\n", 1, "found a list"),
        ("[size]\nx = 1\n", 1, "found a table"),
        ("color = \"blue\"\n", 1, "possible values are auto, always, never"),
        ("dir = \"a\"\nsize = \n", 2, ""),
        ("dir = \"a\"\ndir = \"b\"\n", 2, "duplicate key"),
    ] {
        let error = parsed(text, &["--dir=x"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let error = error.to_string();
        assert!(error.contains(&format!("sample.toml:{line}: ")) && error.contains(what), "{text}: {error}");
    }
    let missing = ["sample", "--config=/nonexistent/file"].map(OsString::from).to_vec();
    let error = try_parse::<SampleOptions>(missing, |_| false, read_text).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/file"), "{error}");
}

#[test]
fn what_is_printed_says_where_each_value_is_from_and_is_a_file_again() {
    let file = "dir = \"a \\\"b\\\"\"\nkinds = [\"x\", \"y\"]\n";
    let text = printed(file, &["--size=77", "--secret=hidden"]);
    assert!(text.contains("dir = \"a \\\"b\\\"\"  # ") && text.contains(":1\n"), "{text}");
    assert!(text.contains("size = 77  # the command line\n"), "{text}");
    assert!(text.contains("color = \"auto\"  # default\n"), "{text}");
    assert!(text.contains("kinds = [\"x\", \"y\"]  # ") && text.contains("# cert is not set\n"), "{text}");
    assert!(!text.contains("hidden"), "{text}");
    let again = run(&text, &[]);
    assert_eq!((again.dir, again.size, again.kinds.len()), ("a \"b\"".into(), 77, 2));
    let values = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| Some(line.split_once("  # ")?.0.to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(values(&printed(&text, &[])), values(&text));
}

#[test]
fn text_in_toml_is_read_as_it_was() {
    for text in ["", "a b", "\"\\\n\t\u{1}\u{7f}", "é東"] {
        let read = toml::from_str::<toml::Table>(&format!("x = {}", toml_string(text))).unwrap();
        assert_eq!(read.get("x").and_then(toml::Value::as_str), Some(text));
    }
}
