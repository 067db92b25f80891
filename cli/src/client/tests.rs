//! How the database is found that the options name.

#[test]
fn addresses_are_those_given_or_the_usual_one() {
    let given = ["a:1", "https://b:2", ""].map(str::to_owned);
    assert_eq!(super::addresses(&given, "x"), ["a:1", "https://b:2"]);
    assert_eq!(super::addresses(&[], "http://x"), ["http://x"]);
}
