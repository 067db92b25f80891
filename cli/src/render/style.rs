//! Colours, and text that is safe to print on a terminal.

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    colour: bool,
}

impl Style {
    /// Colours if `colour` is set.
    pub(super) fn new(colour: bool) -> Style {
        Style { colour }
    }

    /// No colours.
    pub(crate) const PLAIN: Style = Style { colour: false };
    /// All colours.
    #[cfg(test)]
    pub(crate) const COLOUR: Style = Style { colour: true };

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Whether colours are off.
    pub(crate) fn is_plain(self) -> bool {
        !self.colour
    }

    /// For headings.
    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// For added text.
    pub(crate) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// For removed text.
    pub(crate) fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// For changed text.
    pub(crate) fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// For secondary text.
    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }
}

/// Escapes control characters, so that data cannot control the terminal.
pub(super) fn visible(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control().then(|| c.escape_default());
    let plain = (!c.is_control()).then_some(c);
    escaped.into_iter().flatten().chain(plain)
}
