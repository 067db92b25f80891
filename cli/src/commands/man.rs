//! `man`: writes the manual pages of driftctl and of each of its commands.

use clap::Command;
use driftdb_common::error::{Error, Result, counted};
use driftdb_common::service::manual_page::manual_page;
use driftdb_common::storage::fs::{self, OsFileSystem};

use crate::args::{self, ManArgs};
use crate::exit::CliResult;
use crate::render;

/// Writes the pages.
pub(crate) fn run(args: &ManArgs) -> CliResult {
    let pages = pages()?;
    let disk = OsFileSystem::shared();
    let failed = |e: std::io::Error| Error::io(format_args!("cannot create {}", args.dir.display()), &e);
    disk.create_dir(&args.dir).map_err(failed)?;
    for (name, page) in &pages {
        fs::replace(&*disk, &args.dir.join(name), page)?;
    }
    let count = counted(pages.len() as u64, "page");
    render::note(&format!("wrote {count} to {}", args.dir.display()));
    Ok(())
}

/// The pages by their file names.
fn pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut command = args::command().disable_help_subcommand(true);
    // Gives the commands their whole names, and the options of every command.
    command.build();
    let mut pages = Vec::new();
    add_pages(&command, &mut pages).map_err(|e| Error::io("cannot write a manual page", &e))?;
    Ok(pages)
}

fn add_pages(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) -> std::io::Result<()> {
    pages.push(manual_page(command)?);
    let mut commands = command.get_subcommands().filter(|command| !command.is_hide_set());
    commands.try_for_each(|command| add_pages(command, pages))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_each_command_with_its_options_and_examples() {
        let pages = pages().unwrap();
        let page = |name: &str| {
            let found = pages.iter().find(|(page, _)| page == name);
            String::from_utf8(found.unwrap_or_else(|| panic!("no page {name}")).1.clone()).unwrap()
        };
        let select = page("driftctl-select.1");
        for part in [".TH driftctl-select 1", "\\-\\-where", "\\-\\-tls\\-ca", ".SH EXAMPLES\n.nf\n"] {
            assert!(select.contains(part), "{part}: {select}");
        }
        assert!(select.contains("\n  driftctl select orders \\-\\-fields id,status"), "{select}");
        assert!(page("driftctl.1").contains("driftctl\\-select(1)"));
        assert!(page("driftctl-context-add.1").contains("replace"));
        assert!(pages.iter().all(|(name, _)| !name.contains("bench-server") && !name.contains("help")));
    }
}
