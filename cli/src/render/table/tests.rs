//! Tests of the layout of tables.

use super::*;

const PIPE: Page = Page { style: Style::PLAIN, room: None, vertical: VerticalMode::Off };

fn on(room: usize) -> Page {
    Page { style: Style::PLAIN, room: Some(room), vertical: VerticalMode::Auto }
}

fn printed(page: Page, rows: &[&str]) -> String {
    let (mut table, mut out) = (TableWriter::default(), Vec::new());
    for row in rows {
        table.add(&mut out, page, JsonFields::parse(row).unwrap()).unwrap();
    }
    table.end(&mut out, page).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_late_column_starts_a_new_header() {
    let rows: Vec<String> = (0..=WINDOW).map(|n| format!("{{\"n\":{n}}}")).collect();
    let mut rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    rows.push(r#"{"n":1,"late":true}"#);
    let text = printed(PIPE, &rows);
    assert!(text.starts_with("  n\n---\n  0\n  1\n"), "{text}");
    assert!(text.ends_with("255\n256\n\nn  late\n-  ----\n1  true\n"), "{text}");
}

#[test]
fn control_characters_are_escaped_and_a_pipe_gets_whole_cells() {
    let long = "x".repeat(300);
    let text =
        printed(Page { style: Style::COLOUR, ..PIPE }, &[&format!(r#"{{"a":"{long}","b":"\u001b[2J"}}"#)]);
    assert_eq!(text.lines().last().unwrap(), format!("{long}  \\u{{1b}}[2J"));
    assert!(text.starts_with("\x1b[1ma"), "{text}");
}

#[test]
fn text_wraps_in_the_room_of_the_terminal() {
    let rows = [r#"{"id":1,"text":"the quick brown fox jumps over the dog"}"#, r#"{"id":20,"text":"short"}"#];
    let expected =
        "id  text\n--  ----------------\n 1  the quick brown\n    fox jumps over\n    the dog\n20  short\n";
    assert_eq!(printed(on(20), &rows), expected);
    assert_eq!(printed(on(42), &rows).lines().count(), 4);
}

#[test]
fn wide_characters_are_aligned() {
    let rows = [r#"{"name":"日本語","n":1}"#, r#"{"name":"abc","n":20}"#];
    assert_eq!(printed(on(80), &rows), "name     n\n------  --\n日本語   1\nabc     20\n");
}

#[test]
fn a_row_that_does_not_fit_has_one_field_a_line() {
    let row = r#"{"one":"aaaaaaaaaaaaaaaaaaaa","two":"bbbbbbbbbbbbbbbbbbbb bbbb","three":"c"}"#;
    let expected =
        "-- row 1\none    aaaaaaaaaaaaaaaaaaaa\ntwo    bbbbbbbbbbbbbbbbbbbb\n       bbbb\nthree  c\n";
    assert_eq!(printed(on(27), &[row]), expected);
    // A cell that would need many lines does the same.
    let text = printed(on(40), &[&format!(r#"{{"id":1,"text":"{}"}}"#, "word ".repeat(80))]);
    assert!(text.starts_with("-- row 1\nid    1\ntext  word word"), "{text}");
    // But not if columns are asked for: then the terminal wraps.
    let columns = printed(Page { vertical: VerticalMode::Off, ..on(27) }, &[row]);
    assert!(columns.starts_with("one "), "{columns}");
    let fits = printed(Page { vertical: VerticalMode::On, ..on(80) }, &[r#"{"a":1}"#, r#"{"a":2}"#]);
    assert_eq!(fits, "-- row 1\na  1\n-- row 2\na  2\n");
}

#[test]
fn columns_of_empty_text_give_way_first() {
    let row = |reason: &str| format!(r#"{{"key":"aaaaaaaaaaaaaaaaaaaa","actor":"","reason":"{reason}"}}"#);
    let text = printed(on(30), &[&row("why")]);
    assert_eq!(
        text,
        "key                   reason\n--------------------  ------\naaaaaaaaaaaaaaaaaaaa  why\n"
    );
}
