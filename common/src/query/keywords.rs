//! The keywords of DriftQL, and which of them need backticks to be used as names.

/// Every word with a meaning in statements. A client can use the list for highlighting.
pub const KEYWORDS: &[&str] = &[
    "ALTER", "AND", "AS", "BATCHES", "BEFORE", "BEGIN", "BETWEEN", "BY", "CHANGE", "COMMIT", "COMPACT",
    "COUNT", "CREATE", "DEEP", "DELETE", "DESCRIBE", "DIFF", "DRIFT", "DROP", "DRY", "EXISTS", "EXPLAIN",
    "FALSE", "FOREVER", "FROM", "IF", "IN", "INDEX", "INSERT", "INT", "INTO", "IS", "KEY", "LIKE", "LIMIT",
    "MISSING", "NO", "NOT", "NULL", "OF", "OFFSET", "ON", "OR", "PATCH", "PK", "RETAIN", "REVERT",
    "ROLLBACK", "RUN", "SELECT", "SEQ", "SET", "SHOW", "SINCE", "SNAPSHOT", "SOFT", "STRING", "TABLE",
    "TABLES", "TO", "TRUE", "UPSERT", "VERIFY", "WHERE",
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
