//! Tests of how the options select a database.

#[test]
fn the_default_address_is_used_if_none_is_given() {
    let given = ["a:1", "https://b:2", ""].map(str::to_owned);
    assert_eq!(super::addresses(&given, "x"), ["a:1", "https://b:2"]);
    assert_eq!(super::addresses(&[], "http://x"), ["http://x"]);
}
