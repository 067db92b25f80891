//! Turns Rust sources into code without comments and literals, and code into words.

/// A source with the contents of comments, strings and characters turned into spaces. Lines stay where they are.
pub fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (blank, len) = match first {
            '/' if rest.starts_with("//") => (true, rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => (true, rest.find("*/").map_or(rest.len(), |at| at + 2)),
            '"' => (true, quoted(rest, '"')),
            'r' if !code.ends_with(is_word) => match raw_string(rest) {
                Some(len) => (true, len),
                None => (false, 1),
            },
            // A lifetime has no closing quote; a character has one after it or after its escape.
            '\'' if rest[1..].starts_with('\\') => (true, quoted(rest, '\'')),
            '\'' => match rest.char_indices().nth(2) {
                Some((at, '\'')) => (true, at + 1),
                _ => (false, 1),
            },
            other => (false, other.len_utf8()),
        };
        let (piece, after) = rest.split_at(len);
        code.extend(piece.chars().map(|c| if blank && c != '\n' { ' ' } else { c }));
        rest = after;
    }
    code
}

/// The length of a literal from its opening quote to its closing one.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a raw string, where there is one.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text[1..].len() - text[1..].trim_start_matches('#').len();
    let body = text[1 + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(body.find(&end).map_or(text.len(), |at| 2 + hashes + at + end.len()))
}

pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The words of a source, each with its line from 1 and what follows it.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    code.lines().enumerate().flat_map(|(line, text)| {
        text.split(|c| !is_word(c)).filter(|word| !word.is_empty()).map(move |word| {
            let after = word.as_ptr() as usize - text.as_ptr() as usize + word.len();
            (line + 1, word, &text[after..])
        })
    })
}

/// The names taken from a module, by path (`crate::log::…`) or by a group (`crate::{log, table::…}`), with their lines.
pub fn taken_from(code: &str, module: &str) -> Vec<(usize, String)> {
    let mut taken = Vec::new();
    let start = format!("{module}::");
    for (at, _) in code.match_indices(&start).filter(|(at, _)| !code[..*at].ends_with(is_word)) {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + start.len()..];
        let word =
            |text: &str| text.trim_start().split(|c| !is_word(c)).next().unwrap_or_default().to_owned();
        let Some(group) = rest.strip_prefix('{') else {
            taken.push((line, word(rest)));
            continue;
        };
        let mut depth = 0;
        let mut item = 0;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    taken.push((line, word(&group[item..])));
                    item = at + 1;
                    if c == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    taken
}
