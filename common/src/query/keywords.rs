//! The keywords of DriftQL, and which of them need backticks to be used as names.

/// Every word with a meaning in statements. A client can use the list for highlighting.
pub const KEYWORDS: &[&str] = &[
    "AFTER", "ALTER", "AND", "ANY", "AS", "ASC", "AUTO", "AVG", "BATCHES", "BEFORE", "BEGIN", "BETWEEN",
    "BY", "CHANGE", "COMMIT", "COMPACT", "CONTAINS", "COUNT", "CREATE", "DEEP", "DELETE", "DELETED", "DESC",
    "DESCRIBE", "DIFF", "DISTINCT", "DRIFT", "DROP", "DRY", "EVERY", "EXISTS", "EXPLAIN", "FALSE", "FIND",
    "FIRST", "FOREVER", "FROM", "GROUP", "HAVING", "IF", "ILIKE", "IN", "INDEX", "INSERT", "INT", "INTO",
    "IS", "KEY", "LAST", "LIKE", "LIMIT", "MAX", "MIN", "MISSING", "NO", "NOT", "NULL", "OF", "OFFSET", "ON",
    "OR", "ORDER", "PATCH", "PK", "RENAME", "RETAIN", "REVERT", "ROLLBACK", "RUN", "SELECT", "SEQ", "SEQS",
    "SET", "SHOW", "SINCE", "SNAPSHOT", "SOFT", "STRICT", "STRING", "SUM", "TABLE", "TABLES", "TO", "TRUE",
    "UPSERT", "VERIFY", "WHERE", "WITH",
];

/// Words that can follow a name. They need backticks to be used as names.
pub(crate) const RESERVED: &[&str] = &[
    "AND", "AS", "BETWEEN", "FALSE", "FROM", "IN", "IS", "LIKE", "LIMIT", "NOT", "NULL", "OFFSET", "OR",
    "SELECT", "TRUE", "WHERE",
];
/// Words that can follow only a table's name.
pub(crate) const RESERVED_FOR_TABLES: &[&str] = &["KEY", "SET", "TO"];

/// Returns whether a word is one of the keywords, ignoring case.
pub(crate) fn is_any(word: &str, keywords: &[&str]) -> bool {
    keywords.iter().any(|keyword| word.eq_ignore_ascii_case(keyword))
}
