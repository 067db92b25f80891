//! The manual page of a command line, in roff.

use std::io;

use clap::Command;
use clap_mangen::Man;

/// The page of a command, and the name of its file. The command must be built.
pub fn manual_page(command: &Command) -> io::Result<(String, Vec<u8>)> {
    let help = command.get_after_long_help().or_else(|| command.get_after_help()).map(ToString::to_string);
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.get_subcommands().any(|command| !command.is_hide_set()) {
        man.render_subcommands_section(&mut page)?;
    }
    page.extend(help.as_deref().map(sections).unwrap_or_default().into_bytes());
    if command.get_version().is_some() {
        man.render_version_section(&mut page)?;
    }
    Ok((man.get_filename(), page))
}

/// The text after the options as sections in roff: what it says, and the examples. clap_mangen would fill all lines of it into one paragraph.
fn sections(help: &str) -> String {
    let (notes, examples) = help.split_once("Examples:\n").unwrap_or((help, ""));
    let mut text = String::new();
    for (title, lines) in [("NOTES", notes), ("EXAMPLES", examples)] {
        if !lines.trim().is_empty() {
            text += &format!(".SH {title}\n{}", body(lines));
        }
    }
    text
}

/// Lines in roff: paragraphs, and between them lines that begin with a space, which stay as they are.
fn body(lines: &str) -> String {
    let (mut text, mut is_kept) = (String::new(), false);
    for line in lines.trim_end().lines() {
        if line.starts_with(' ') != is_kept && !line.is_empty() {
            is_kept = !is_kept;
            text += if is_kept { ".nf\n" } else { ".fi\n.PP\n" };
        }
        match line {
            "" if is_kept => text.push('\n'),
            "" => text += ".PP\n",
            line => text += &format!("{}\n", escaped(line)),
        }
    }
    if is_kept {
        text += ".fi\n";
    }
    text
}

/// A line without what roff would take for a request or an escape.
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_not_taken_for_roff() {
        let text = sections("A.\n.dot\n  x -y \\N\n\nB.");
        assert_eq!(text, ".SH NOTES\nA.\n\\&.dot\n.nf\n  x \\-y \\eN\n\n.fi\n.PP\nB.\n");
        assert_eq!(sections("Examples:\n  a"), ".SH EXAMPLES\n.nf\n  a\n.fi\n");
    }
}
