//! Splits DriftQL text into tokens, one at a time, in one pass.

use crate::error::{Error, Reason, Result};
use crate::query::location;

/// The kind of a token. Its text is the text of its span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A keyword or a name.
    Word,
    /// A name in backticks.
    Quoted,
    /// A string in double or single quotes, escapes not decoded yet.
    Str,
    /// A number in JSON syntax.
    Number,
    /// `$1`
    Param,
    /// A point in time without quotes: `@seq:100`, `@now`.
    At,
    /// An operator or punctuation.
    Symbol(&'static str),
    /// The end of the text.
    End,
}

/// A token and its location.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Its kind.
    pub kind: TokenKind,
    /// Byte offset of its first byte.
    pub start: usize,
    /// Byte offset after its last byte.
    pub end: usize,
}

/// Returns the tokens of a text, one after the other.
#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    text: &'a str,
    at: usize,
    /// Where the last token ended: the location of an error about a missing token.
    last_end: usize,
}

/// Longest first, so that `<=` is not read as `<`.
const SYMBOLS: &[&str] =
    &["<=", ">=", "<>", "!=", "(", ")", "[", "]", "{", "}", ",", ":", ";", ".", "*", "=", "<", ">"];

/// Syntax of other languages, and what to write in DriftQL.
const FOREIGN: &[(&str, &str)] = &[
    ("==", "write ="),
    ("&&", "write AND"),
    ("||", "write OR"),
    ("!", "write NOT"),
    ("“", "write plain quotes: \""),
    ("”", "write plain quotes: \""),
    ("‘", "write plain quotes: '"),
    ("’", "write plain quotes: '"),
    ("?", "write parameters as $1, $2, …"),
    ("-", "write names that contain - in backticks: `odd-name`"),
    ("#", "start comments with --"),
    ("//", "start comments with --"),
];

impl<'a> Lexer<'a> {
    /// Returns a lexer at the first byte of a text.
    pub fn new(text: &'a str) -> Self {
        Lexer { text, at: 0, last_end: 0 }
    }

    /// Returns the next token. After the last one it returns `End` every time.
    ///
    /// # Errors
    /// `QUERY_SYNTAX` if no token starts here. Errors are final: calling again returns the same error.
    #[expect(
        clippy::should_implement_trait,
        reason = "an Iterator would end, and hide that errors are final"
    )]
    pub fn next(&mut self) -> Result<Token> {
        self.skip_blanks()?;
        let start = self.at;
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Ok(Token { kind: TokenKind::End, start: self.last_end, end: self.last_end });
        };
        let kind = match first {
            '"' | '\'' => self.string(first)?,
            '`' => self.quoted_name()?,
            '$' => self.param()?,
            '@' => {
                self.take_while(|c| matches!(c, '@' | ':') || is_word(c));
                TokenKind::At
            }
            '-' if rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit) => self.number()?,
            '0'..='9' => self.number()?,
            c if starts_word(c) => {
                self.take_while(is_word);
                TokenKind::Word
            }
            _ => self.symbol()?,
        };
        self.last_end = self.at;
        Ok(Token { kind, start, end: self.at })
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take_while(&mut self, mut wanted: impl FnMut(char) -> bool) {
        let rest = self.rest();
        self.at += rest.find(|c| !wanted(c)).unwrap_or(rest.len());
    }

    fn error(&self, start: usize, end: usize, message: impl Into<String>, hint: &str) -> Error {
        Error::new(Reason::QuerySyntax, message).at(location::place(self.text, start, end, hint))
    }

    /// Skips white space and comments.
    fn skip_blanks(&mut self) -> Result<()> {
        loop {
            self.take_while(|c| c.is_whitespace() || c == '\u{feff}');
            let rest = self.rest();
            if rest.starts_with("--") {
                // A carriage return ends the line too: in a script of a classic Mac the comment would hide all the rest.
                self.at += rest.find(['\n', '\r']).unwrap_or(rest.len());
            } else if let Some(comment) = rest.strip_prefix("/*") {
                let Some(len) = comment.find("*/") else {
                    return Err(self.error(self.at, self.at + 2, "unterminated comment", "close it with */"));
                };
                self.at += len + 4;
            } else {
                return Ok(());
            }
        }
    }

    /// Skips a string. The parser decodes and checks its escapes later.
    fn string(&mut self, quote: char) -> Result<TokenKind> {
        let start = self.at;
        let mut escaped = false;
        for (at, c) in self.rest().char_indices().skip(1) {
            match c {
                c if c == quote && !escaped => {
                    self.at += at + 1;
                    return Ok(TokenKind::Str);
                }
                '\n' => {
                    let end = start + at;
                    let hint = format!("close it with {quote}, or write \\n for a line break");
                    return Err(self.error(
                        start,
                        end,
                        "unterminated string: the line ends before the closing quote",
                        &hint,
                    ));
                }
                c => escaped = c == '\\' && !escaped,
            }
        }
        Err(self.error(start, self.text.len(), "unterminated string", &format!("close it with {quote}")))
    }

    fn quoted_name(&mut self) -> Result<TokenKind> {
        let start = self.at;
        let mut at = self.at + 1;
        while let Some(len) = self.text.get(at..).and_then(|rest| rest.find('`')) {
            at += len + 1;
            if self.text.as_bytes().get(at) != Some(&b'`') {
                self.at = at;
                return Ok(TokenKind::Quoted);
            }
            at += 1;
        }
        Err(self.error(start, self.text.len(), "unterminated name", "close it with a backtick"))
    }

    fn param(&mut self) -> Result<TokenKind> {
        let start = self.at;
        self.at += 1;
        self.take_while(is_word);
        let digits = self.text.get(start + 1..self.at).unwrap_or_default();
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            let message = "invalid parameter: expected $ and a number";
            return Err(self.error(start, self.at, message, "the first parameter is $1"));
        }
        Ok(TokenKind::Param)
    }

    /// Skips a number and any letters right after it, so that `12ab` is one error instead of two tokens.
    fn number(&mut self) -> Result<TokenKind> {
        let start = self.at;
        let mut last = ' ';
        self.take_while(|c| {
            let signed_exponent = matches!(c, '+' | '-') && matches!(last, 'e' | 'E');
            let wanted = is_word(c) || c == '.' || signed_exponent || (c == '-' && last == ' ');
            last = c;
            wanted
        });
        let text = self.text.get(start..self.at).unwrap_or_default();
        if is_json_number(text) {
            return Ok(TokenKind::Number);
        }
        let digits = text.trim_start_matches('-');
        let hint = if digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()) {
            "remove leading zeros, or write a string in quotes"
        } else {
            "write strings in quotes, and names that start with a digit in backticks"
        };
        Err(self.error(start, self.at, format!("{:?} is not a number", clipped(text)), hint))
    }

    fn symbol(&mut self) -> Result<TokenKind> {
        let rest = self.rest();
        let foreign = FOREIGN.iter().find(|(text, _)| rest.starts_with(text));
        let known = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol));
        match (foreign, known) {
            // `!` and `!=` start alike: the longer one wins.
            (None, Some(symbol)) => {
                self.at += symbol.len();
                Ok(TokenKind::Symbol(symbol))
            }
            (Some((text, _)), Some(symbol)) if symbol.len() > text.len() => {
                self.at += symbol.len();
                Ok(TokenKind::Symbol(symbol))
            }
            (Some((text, hint)), _) => {
                let message = format!("unexpected {text:?}");
                Err(self.error(self.at, self.at + text.len(), message, hint))
            }
            (None, None) => {
                let c = rest.chars().next().unwrap_or_default();
                let message = format!("unexpected character {c:?}");
                let hint =
                    if c == '\\' { "commands such as \\dt work at the prompt of driftctl shell" } else { "" };
                Err(self.error(self.at, self.at + c.len_utf8(), message, hint))
            }
        }
    }
}

fn starts_word(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// `-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?`
fn is_json_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|e| digits(e.strip_prefix(['+', '-']).unwrap_or(e)))
}

/// Returns the first 40 characters of a text for a message, with control characters replaced.
pub(crate) fn clipped(text: &str) -> String {
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut out: String = text.chars().take(40).map(visible).collect();
    if text.chars().nth(40).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<(TokenKind, &str)> {
        let mut lexer = Lexer::new(text);
        let mut found = Vec::new();
        loop {
            let token = lexer.next().unwrap();
            if token.kind == TokenKind::End {
                return found;
            }
            found.push((token.kind, &text[token.start..token.end]));
        }
    }

    fn failure(text: &str) -> (String, String) {
        let mut lexer = Lexer::new(text);
        loop {
            match lexer.next() {
                Ok(token) => assert_ne!(token.kind, TokenKind::End, "{text}"),
                Err(error) => return (error.message().to_owned(), error.place().unwrap().hint.clone()),
            }
        }
    }

    #[test]
    fn reads_every_kind_of_token() {
        use TokenKind::*;
        assert_eq!(
            tokens("a.b>=-1.5e+3<>\"x\\\"y\"'it\\'s' `odd``name`$12 @seq:100/* - */@now--end"),
            [
                (Word, "a"),
                (Symbol("."), "."),
                (Word, "b"),
                (Symbol(">="), ">="),
                (Number, "-1.5e+3"),
                (Symbol("<>"), "<>"),
                (Str, "\"x\\\"y\""),
                (Str, "'it\\'s'"),
                (Quoted, "`odd``name`"),
                (Param, "$12"),
                (At, "@seq:100"),
                (At, "@now"),
            ]
        );
        assert_eq!(tokens("a!=b")[1], (Symbol("!="), "!="));
        assert_eq!(tokens("\u{feff}prénom ``"), [(Word, "prénom"), (Quoted, "``")]);
        assert_eq!(tokens(" -- only a comment"), []);
        assert_eq!(tokens("-- a comment\r1"), [(Number, "1")]);
    }

    #[test]
    fn the_end_is_right_after_the_last_token() {
        let mut lexer = Lexer::new("ab  -- c\n");
        lexer.next().unwrap();
        assert_eq!(lexer.next().unwrap(), Token { kind: TokenKind::End, start: 2, end: 2 });
    }

    #[test]
    fn numbers_have_json_syntax() {
        for text in ["0", "-0", "10", "1.5", "1e9", "1E-9", "-0.0e+0"] {
            assert_eq!(tokens(text), [(TokenKind::Number, text)]);
        }
        for text in ["007", "1.", "1.e5", "1e", "1e+", "0x10", "5abc", "1.2.3", "-01", "1_000", "٣"] {
            assert!(Lexer::new(text).next().is_err(), "{text}");
        }
    }

    #[test]
    fn syntax_of_other_languages_gets_a_hint() {
        for (text, hint) in [
            ("a == b", "write ="),
            ("a && b", "write AND"),
            ("a || b", "write OR"),
            ("!a", "write NOT"),
            ("“x”", "write plain quotes: \""),
            ("a = ?", "write parameters as $1, $2, …"),
            ("customer-id", "write names that contain - in backticks: `odd-name`"),
            ("$name", "the first parameter is $1"),
            ("\"abc", "close it with \""),
            ("/* abc", "close it with */"),
            ("\\i a.sql", "commands such as \\dt work at the prompt of driftctl shell"),
        ] {
            assert_eq!(failure(text).1, hint, "{text}");
        }
        assert_eq!(failure("a \0").0, "unexpected character '\\0'");
    }

    #[test]
    fn unterminated_tokens_are_read_once() {
        for one in ["\"", "'", "`", "/*", "\"\\", "$", "@", "-", "é", "1", "\0"] {
            let text = one.repeat((1 << 20) / one.len());
            let mut lexer = Lexer::new(&text);
            let mut passed = 0;
            while let Ok(token) = lexer.next() {
                assert!(token.kind == TokenKind::End || token.start >= passed);
                passed = token.end;
                if token.kind == TokenKind::End {
                    break;
                }
            }
        }
    }
}
