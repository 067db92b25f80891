//! Compares the tables in docs/limits.md with the code: every limit has a row, and no row is out of date.

use std::collections::{BTreeMap, BTreeSet};

/// The cells of every row of the tables in a page.
fn rows(page: &str) -> impl Iterator<Item = Vec<&str>> {
    page.lines()
        .filter_map(|line| line.strip_prefix('|'))
        .map(|row| row.trim_end_matches('|').split('|').map(str::trim).collect())
}

/// Compares the rows `| what | value | CONSTANT |` of docs/limits.md with the constants of limits.rs.
pub fn wrong_limits(page: &str, limits: &str) -> Vec<String> {
    let constants: BTreeMap<&str, Option<u64>> = limits
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("pub const ")?.split_once(':')?;
            Some((name, constant(rest.split_once('=')?.1.trim_end_matches(';'))))
        })
        .collect();
    let mut wrong = Vec::new();
    let mut listed = BTreeSet::new();
    for cells in rows(page) {
        let [_, value, name] = cells[..] else { continue };
        let name = name.trim_matches('`');
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
            continue;
        }
        listed.insert(name);
        match constants.get(name) {
            Some(Some(limit)) if quantity(value) == Some(*limit) => {}
            Some(limit) => wrong.push(format!("docs/limits.md: {name} is {limit:?}, not {value}")),
            None => wrong.push(format!("docs/limits.md: limits.rs has no constant {name}")),
        }
    }
    let missing = constants.keys().filter(|name| !listed.contains(*name));
    wrong.extend(missing.map(|name| format!("docs/limits.md: no row for {name}")));
    wrong
}

/// The value of `1000`, `10_000` or `64 << 20`.
fn constant(expression: &str) -> Option<u64> {
    let number = |text: &str| text.trim().replace('_', "").parse::<u64>().ok();
    match expression.split_once("<<") {
        Some((value, shift)) => number(value)?.checked_shl(u32::try_from(number(shift)?).ok()?),
        None => number(expression),
    }
}

/// The value of `10,000`, `64 MiB`, `128 bytes` or `5 s`.
fn quantity(text: &str) -> Option<u64> {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let factor = match unit {
        "" | "bytes" | "s" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    Some(number.replace(',', "").parse::<u64>().ok()? * factor)
}
