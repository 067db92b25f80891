//! Compares a table of limits in the documentation with the constants.

use std::collections::{BTreeMap, BTreeSet};

/// `docs/limits.md` names every limit with its value, in rows `| what | value | CONSTANT |`.
pub fn limits_differ(page: &str, limits: &str) -> Vec<String> {
    let constants: BTreeMap<&str, Option<u64>> = limits
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("pub const ")?.split_once(':')?;
            Some((name, constant(rest.split_once('=')?.1.trim_end_matches(';'))))
        })
        .collect();
    let mut wrong = Vec::new();
    let mut told = BTreeSet::new();
    for row in page.lines().filter_map(|line| line.strip_prefix('|')) {
        let cells: Vec<&str> = row.trim_end_matches('|').split('|').map(str::trim).collect();
        let [_, value, name] = cells[..] else { continue };
        let name = name.trim_matches('`');
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
            continue;
        }
        told.insert(name);
        match constants.get(name) {
            Some(Some(limit)) if quantity(value) == Some(*limit) => {}
            Some(limit) => wrong.push(format!("docs/limits.md: {name} is {limit:?}, not {value}")),
            None => wrong.push(format!("docs/limits.md: no limit is called {name}")),
        }
    }
    let untold = constants.keys().filter(|name| !told.contains(*name));
    wrong.extend(untold.map(|name| format!("docs/limits.md: no row for {name}")));
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
