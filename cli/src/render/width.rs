//! How wide text is on a terminal, and how it is broken into lines.

use std::io;

use rustix::termios::tcgetwinsize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The columns of text: two for each wide character, none for a combining one.
pub(super) fn text_width(text: &str) -> usize {
    text.width()
}

/// The columns and lines of the terminal that standard output is; `None` if it is none, or does not say.
pub(super) fn terminal_size() -> Option<(usize, usize)> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    let found = (usize::from(size.ws_col), usize::from(size.ws_row));
    Some(found).filter(|(columns, rows)| *columns > 0 && *rows > 0)
}

/// Breaks text into lines of at most `room` columns, at spaces if possible. A character that is wider than that has a line of its own.
pub(crate) fn wrap(text: &str, room: usize) -> Vec<&str> {
    let (mut lines, mut rest) = (Vec::new(), text);
    loop {
        let (end, space) = head(rest, room);
        let (line, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
        if after.is_empty() {
            lines.push(line);
            return lines;
        }
        // Rather a word in two lines than a line that is half empty.
        let cut = space.filter(|space| !after.starts_with(' ') && *space * 2 > end).unwrap_or(end);
        let (line, after) = rest.split_at_checked(cut).unwrap_or((line, after));
        lines.push(line.trim_end_matches(' '));
        rest = after.trim_start_matches(' ');
        if rest.is_empty() {
            return lines;
        }
    }
}

/// The end of the first characters of a text that fit, and the end of the last space among them.
fn head(text: &str, room: usize) -> (usize, Option<usize>) {
    let (mut width, mut end, mut space) = (0, 0, None);
    for (at, c) in text.char_indices() {
        width += c.width().unwrap_or(0);
        if width > room && end > 0 {
            break;
        }
        end = at + c.len_utf8();
        if c == ' ' {
            space = Some(end);
        }
    }
    (end, space)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_at_spaces_or_where_it_must_be() {
        for (text, room, lines) in [
            ("", 5, &[""][..]),
            ("abc", 3, &["abc"]),
            ("ab cd ef", 5, &["ab cd", "ef"]),
            ("abcdefgh", 3, &["abc", "def", "gh"]),
            ("a bcdefgh", 5, &["a bcd", "efgh"]),
            ("ab   ", 2, &["ab"]),
            ("日本語", 4, &["日本", "語"]),
            ("日本", 1, &["日", "本"]),
            ("e\u{301}e\u{301}", 1, &["e\u{301}", "e\u{301}"]),
        ] {
            assert_eq!(wrap(text, room), lines, "{text}");
        }
    }

    #[test]
    fn wide_characters_have_two_columns() {
        assert_eq!(text_width("日本e\u{301}x"), 6);
    }
}
