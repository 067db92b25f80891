//! What the view looks like at 80 and at 200 columns.

use std::time::Instant;

use driftdb::v1;
use driftdb_common::error::{Error, Reason};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;

fn process(calls: u64) -> Option<v1::ProcessState> {
    let uptime = Some(prost_types::Duration { seconds: 7_300, nanos: 0 });
    Some(v1::ProcessState { uptime, connections: 4, calls, resident_bytes: 123 << 20 })
}

fn looked(second: u64, start: Instant) -> Vec<DaemonFigures> {
    let at = start + Duration::from_secs(second);
    let job = v1::Progress {
        job_id: "snapshot-3".into(),
        description: "snapshot of orders".into(),
        done: 30,
        total: 120,
        unit: "rows".into(),
        queued: false,
    };
    let writer = v1::WriterServiceStatusResponse {
        last_seq: 1_000 + second * 12_345,
        last_time: Some(prost_types::Timestamp { seconds: 1_767_225_600, nanos: 0 }),
        tables: vec![v1::TableInfo { events: second * 40_000, ..Default::default() }],
        jobs: vec![job],
        process: process(second * 900),
        ..Default::default()
    };
    let reader = v1::ReaderServiceStatusResponse {
        header: Some(v1::ReadHeader { applied_seq: 900 + second * 12_300, ..Default::default() }),
        lag_seqs: 45,
        lag: Some(prost_types::Duration { seconds: 0, nanos: 35_000_000 }),
        watchers: 1_500,
        queries: 7,
        problems: vec!["cannot read\nsegment 7".into()],
        process: process(second),
        ..Default::default()
    };
    let gone = Error::new(Reason::Unreachable, "cannot connect to http://10.0.0.9:7402: refused");
    let found = vec![
        DaemonFigures::of_writer("http://127.0.0.1:7401".into(), Ok(writer)),
        DaemonFigures::of_reader("http://127.0.0.1:7402".into(), Ok(reader)),
        DaemonFigures::of_reader("http://10.0.0.9:7402".into(), Err(gone)),
    ];
    found.into_iter().map(|figures| DaemonFigures { at, ..figures }).collect()
}

fn screen(width: u16, height: u16) -> Vec<String> {
    let (mut state, start) = (TopState::default(), Instant::now());
    (0..3).for_each(|second| state.add(looked(second, start)));
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, &state, Duration::from_secs(1), true)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

#[test]
fn eighty_columns_are_enough() {
    let lines = screen(80, 24);
    let expected = [
        "driftctl top  every 1 s  seq 25690 of 2026-01-01T00:00:00.000Z",
        "",
        "daemon                      commit/s event/s call/s      lag watch conn   memory",
        "writer 127.0.0.1:7401          12.3k   40.0k    900        -     -    4  123 MiB",
        "reader 127.0.0.1:7402          12.3k       -      1    35 ms  1.5k    4  123 MiB",
        "reader 10.0.0.9:7402            down",
        "",
        "commits per second, the newest at the right; the highest is 12.3k",
    ];
    assert_eq!(lines[..8], expected, "{lines:#?}");
    assert!(lines[8].ends_with("██") && lines[11].ends_with("██"), "{lines:#?}");
    let expected = [
        "jobs: 1",
        "  snapshot-3  snapshot of orders: 25 % of 120 rows",
        "problems: 2",
        "  cannot connect to http://10.0.0.9:7402: refused",
        "  reader 127.0.0.1:7402: cannot read segment 7",
    ];
    assert_eq!(lines[13..18], expected, "{lines:#?}");
    assert_eq!(lines[23], "q or Ctrl-C leaves");
}

#[test]
fn a_wide_terminal_shows_more() {
    let lines = screen(200, 24);
    for title in ["seq", "commits behind", "queries", " up"] {
        assert!(lines[2].contains(title), "{title}: {}", lines[2]);
    }
    assert!(lines[3].contains(" 25690 ") && lines[3].contains(" 2 h"), "{}", lines[3]);
    assert!(lines[4].contains(" 45 ") && lines[4].contains(" 7 "), "{}", lines[4]);
}

#[test]
fn the_end_of_a_problem_is_never_cut() {
    let lines = screen(50, 30);
    let from = lines.iter().position(|line| line.starts_with("problems")).unwrap();
    let expected = [
        "  cannot connect to http://10.0.0.9:7402:",
        "    refused",
        "  reader 127.0.0.1:7402: cannot read segment 7",
    ];
    assert_eq!(lines[from + 1..from + 4], expected, "{lines:#?}");
}

#[test]
fn a_tiny_terminal_is_no_error() {
    for (width, height) in [(1, 1), (20, 3), (80, 1), (300, 100)] {
        assert_eq!(screen(width, height).len(), usize::from(height));
    }
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    terminal.draw(|frame| draw(frame, &TopState::default(), Duration::from_secs(1), false)).unwrap();
}

#[test]
fn numbers_are_short() {
    for (number, text) in [
        (0.0, "0"),
        (0.25, "0.2"),
        (3.0, "3"),
        (99.96, "100"),
        (999.96, "1.0k"),
        (12_345.0, "12.3k"),
        (999_960.0, "1.0M"),
        (123_456.0, "123k"),
        (4_560_000.0, "4.6M"),
        (7.2e9, "7.2G"),
    ] {
        assert_eq!(compact(number), text);
    }
    for (ms, text) in [
        (0, "0 ms"),
        (250, "250 ms"),
        (1_500, "1.5 s"),
        (2_000, "2 s"),
        (90_000, "1 min"),
        (90_000_000, "1 d"),
    ] {
        assert_eq!(duration(Duration::from_millis(ms)), text);
    }
    assert_eq!((bytes(0), bytes(5 << 20), bytes(20 << 30)), ("-".into(), "5 MiB".into(), "20 GiB".into()));
}
