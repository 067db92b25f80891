//! How many cases a test tries: `make soak` asks for its long form.

/// Whether the tests run in their long form.
pub fn is_soak() -> bool {
    std::env::var_os("DRIFTDB_SOAK").is_some()
}

/// The number of cases, or another measure of length, in the default form and in the long form.
pub fn by_lane<T>(default: T, soak: T) -> T {
    if is_soak() { soak } else { default }
}
