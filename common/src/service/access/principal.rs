//! A principal: someone who may call, and what it may do.

use std::collections::HashMap;

use crate::limits;
use crate::planted::{PlantedBug, is_planted};
use crate::service::access::role::Role;
use crate::service::access::table_pattern::TablePattern;

/// Someone who may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The name, which becomes the actor of its commits.
    pub name: String,
    /// Whether it may do everything, in the whole database.
    pub is_admin: bool,
    grants: Grants,
}

/// Which role a principal has on which tables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grants {
    /// In the order of the file.
    all: Vec<(TablePattern, Role)>,
    /// The greatest role by name, for grants without `*`.
    exact: HashMap<String, Role>,
    /// The other grants.
    patterns: Vec<(TablePattern, Role)>,
}

impl Grants {
    /// Adds a grant.
    pub(super) fn add(&mut self, pattern: TablePattern, role: Role) {
        match pattern.exact_name() {
            Some(name) => {
                let known = self.exact.entry(name.to_owned()).or_insert(role);
                *known = role.max(*known);
            }
            None => self.patterns.push((pattern.clone(), role)),
        }
        self.all.push((pattern, role));
    }

    /// The number of patterns with a `*`.
    pub(super) fn patterns(&self) -> usize {
        self.patterns.len()
    }

    /// The greatest role on a table.
    fn role_on(&self, table: &str) -> Option<Role> {
        let name = table.to_ascii_lowercase();
        let patterns = self.patterns.iter().filter(|(pattern, _)| pattern.matches(&name));
        patterns.map(|(_, role)| *role).chain(self.exact.get(&name).copied()).max()
    }

    /// Whether these grants give at least a role on every table on which others do, tables of the future included.
    fn cover(&self, others: &Grants, role: Role) -> bool {
        let needed = others.all.iter().filter(|(_, given)| *given >= role);
        let mut needed = needed.map(|(pattern, _)| pattern);
        needed.all(|pattern| self.all.iter().any(|(own, given)| *given >= role && own.covers(pattern)))
    }
}

impl Principal {
    /// A principal.
    pub(super) fn new(name: String, is_admin: bool, grants: Grants) -> Principal {
        Principal { name, is_admin, grants }
    }

    /// The greatest role on a table, whether it exists or not; `None` if the table does not exist for this principal.
    pub fn role_on(&self, table: &str) -> Option<Role> {
        if self.is_admin || is_planted(PlantedBug::GrantsUnchecked) {
            return Some(Role::Admin);
        }
        // No table has a longer name, and a request can name one that is very long.
        if table.len() > limits::TABLE_NAME_BYTES { None } else { self.grants.role_on(table) }
    }

    /// Whether it has at least a role on some table.
    pub fn has_role(&self, role: Role) -> bool {
        self.is_admin || self.grants.all.iter().any(|(_, given)| *given >= role)
    }

    /// Whether it may read every table that an earlier version of the principal may read, tables of the future included.
    pub fn reads_all_that(&self, earlier: &Principal) -> bool {
        self.is_admin || (!earlier.is_admin && self.grants.cover(&earlier.grants, Role::Read))
    }

    /// The grants, in the order of the file.
    pub fn grants(&self) -> impl Iterator<Item = (String, Role)> {
        self.grants.all.iter().map(|(pattern, role)| (pattern.to_string(), *role))
    }

    /// For each grant that an earlier one contains: both.
    pub fn redundant_grants(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for (index, (pattern, role)) in self.grants.all.iter().enumerate() {
            let others = self.grants.all.iter().enumerate().filter(|(other, _)| *other != index);
            let mut containing = others.filter(|(other, (wide, given))| {
                let is_same = wide == pattern && given == role;
                given >= role && wide.covers(pattern) && !(is_same && *other > index)
            });
            if let Some((_, (wide, given))) = containing.next() {
                found.push((format!("{role} on {pattern}"), format!("{given} on {wide}")));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(grants: &[(&str, Role)]) -> Principal {
        let mut all = Grants::default();
        for (pattern, role) in grants {
            all.add(TablePattern::parse(pattern).unwrap(), *role);
        }
        Principal::new("p".to_owned(), false, all)
    }

    #[test]
    fn the_greatest_role_counts() {
        let found =
            principal(&[("a*", Role::Read), ("ab", Role::Write), ("*b", Role::Admin), ("ab", Role::Read)]);
        assert_eq!(found.role_on("ab"), Some(Role::Admin));
        assert_eq!((found.role_on("ac"), found.role_on("AC")), (Some(Role::Read), Some(Role::Read)));
        assert_eq!(found.role_on("c"), None);
    }

    #[test]
    fn fewer_grants_do_not_cover_more() {
        let wide = principal(&[("audit_*", Role::Read), ("orders", Role::Write)]);
        let narrow = principal(&[("audit_*", Role::Read)]);
        assert!(wide.reads_all_that(&narrow) && !narrow.reads_all_that(&wide));
        let admin = Principal::new("p".to_owned(), true, Grants::default());
        assert!(admin.reads_all_that(&wide) && !wide.reads_all_that(&admin));
    }

    #[test]
    fn a_grant_that_another_contains_is_reported_once() {
        let twice = principal(&[("a", Role::Read), ("a", Role::Read), ("a*", Role::Write)]);
        assert_eq!(twice.redundant_grants().len(), 2);
        assert!(principal(&[("a", Role::Write), ("a*", Role::Read)]).redundant_grants().is_empty());
    }
}
