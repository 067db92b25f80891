//! Tests of valid and invalid command lines.

use super::*;

fn parsed(line: &str) -> Result<Cli, clap::Error> {
    Cli::command().try_get_matches_from(line.split_whitespace()).and_then(|m| from_matches(&m))
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn global_options_work_before_and_after_the_command() {
    for line in [
        "driftctl -d dir -o csv --stale --writer a,b --reader c select -t x",
        "driftctl select -d dir -o csv --stale --writer a,b --reader c -t x",
        "driftctl --data dir --output csv select --table x --stale --writer a,b --reader c",
    ] {
        let cli = parsed(line).unwrap();
        assert_eq!(cli.global.data, Some("dir".into()), "{line}");
        assert_eq!(cli.global.output, Some(Format::Csv));
        assert_eq!(cli.global.writer, ["a", "b"]);
        assert_eq!(cli.global.reader, ["c"]);
        assert!(cli.global.stale);
    }
}

#[test]
fn options_have_short_and_long_names() {
    for line in [
        "driftctl drift -t x -k y --from @seq:1 --to @now",
        "driftctl drift --table x --key y --from=@seq:1 --to=@now",
    ] {
        let Command::Drift(args) = parsed(line).unwrap().command else { panic!("{line}") };
        assert_eq!((args.rows.table(), args.rows.keys()), ("x", &["y".to_owned()][..]));
        assert_eq!((args.from.as_deref(), args.to.as_deref()), (Some("@seq:1"), Some("@now")));
    }
    let Command::Get(args) = parsed("driftctl get -t x a b -k c").unwrap().command else { panic!() };
    assert_eq!((args.rows.table(), args.rows.keys()), ("x", &["a", "b", "c"].map(str::to_owned)[..]));
    let Command::Sql(args) = parsed("driftctl sql --time 2020-01-01T00:00:00Z -e a -e b").unwrap().command
    else {
        panic!()
    };
    assert_eq!(args.statement, ["a", "b"]);
    assert!(args.time.is_some());
}

#[test]
fn the_table_and_the_keys_need_no_option() {
    let Command::Get(args) = parsed("driftctl get x a -k b").unwrap().command else { panic!() };
    assert_eq!((args.rows.table(), args.rows.keys()), ("x", &["a", "b"].map(str::to_owned)[..]));
    let Command::Revert(args) = parsed("driftctl revert x a --to @now").unwrap().command else { panic!() };
    assert_eq!((args.row.table(), args.row.keys()), ("x", &["a".to_owned()][..]));
    for line in ["driftctl select x --limit 1", "driftctl select -t x", "driftctl select --limit 1 x"] {
        let Command::Select(args) = parsed(line).unwrap().command else { panic!("{line}") };
        assert_eq!(args.table.name(), "x", "{line}");
    }
    let Command::Sql(args) = parsed("driftctl sql SELECT").unwrap().command else { panic!() };
    assert_eq!(args.script.as_deref(), Some("SELECT"));
}

#[test]
fn an_invalid_command_line_is_a_usage_error() {
    for line in [
        "driftctl",
        "driftctl nonsense",
        "driftctl select",
        "driftctl get -t x",
        "driftctl get x",
        "driftctl get",
        "driftctl drift x a b",
        "driftctl revert x --to @now",
        "driftctl select x -t y",
        "driftctl sql a -e b",
        "driftctl select -t x --limit 0",
        "driftctl diff -t x",
        "driftctl sql -e a -f b",
        "driftctl -o xml status",
        "driftctl bench --phases W9",
        "driftctl bench --growth sizes",
        "driftctl bench --growth events --scale 0",
        "driftctl bench --svg f",
        "driftctl bench --sustain 60 --growth tables",
        "driftctl bench --bucket file:///b --phases W2",
        "driftctl snapshot",
        "driftctl compact --yes",
        "driftctl storage-check",
        "driftctl watch orders",
        "driftctl watch --heartbeat 1ms",
        "driftctl watch --heartbeat soon",
    ] {
        assert_eq!(parsed(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn the_program_of_a_watch_follows_two_dashes() {
    let line = "driftctl watch -t a,b -t c -k 1 -k 2 --heartbeat 500ms --until @now -- cat -t x";
    let Command::Watch(args) = parsed(line).unwrap().command else { panic!() };
    assert_eq!((args.table, args.key.len()), (["a", "b", "c"].map(str::to_owned).to_vec(), 2));
    assert_eq!(args.heartbeat, Some(std::time::Duration::from_millis(500)));
    assert_eq!(args.command, ["cat", "-t", "x"]);
}

#[test]
fn bench_measures_a_loaded_store_by_default() {
    let Command::Bench(args) = parsed("driftctl bench").unwrap().command else { panic!() };
    assert_eq!((args.phases, args.history), (BenchPhase::DEFAULT.to_vec(), vec![1_000_000]));
    let Command::Bench(args) = parsed("driftctl bench --phases echo,W2").unwrap().command else { panic!() };
    assert_eq!(args.phases, [BenchPhase::Echo, BenchPhase::W2]);
}

#[test]
fn every_command_has_a_short_summary_and_examples() {
    let root = Cli::command();
    for command in root.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = command.get_name();
        let summary = command.get_about().unwrap().to_string();
        assert!(summary.len() < 60 && !summary.ends_with('.'), "{name}: {summary}");
        for option in command.get_arguments() {
            let help = option.get_help().unwrap().to_string();
            assert!(!help.ends_with('.'), "{name} {}: {help}", option.get_id());
        }
        let examples = examples(&command.get_after_help().unwrap().to_string());
        assert!(examples.len() >= 2, "{name}: {examples:?}");
        for example in examples {
            let parsed = Cli::command().try_get_matches_from(&example).and_then(|m| from_matches(&m));
            assert!(parsed.is_ok(), "{example:?}: {}", parsed.unwrap_err());
        }
    }
}

/// The calls of driftctl in the lines of a help text that are indented.
fn examples(help: &str) -> Vec<Vec<String>> {
    let (_, examples) = help.split_once("Examples:\n").unwrap();
    let commands = examples.lines().flat_map(|line| {
        let words = shell_words(line);
        let parts = words.split(|word| ["&&", "|", ">", ">>"].contains(&word.as_str()));
        parts.map(<[String]>::to_vec).collect::<Vec<_>>()
    });
    commands.filter(|words| words.first().is_some_and(|word| word == "driftctl")).collect()
}

/// The words of a command line, some in single quotes. The words between two operators belong to one command.
fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty())),
            c => word.push(c),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}
