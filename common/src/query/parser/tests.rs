//! Tests of the parser as a whole; the golden statements are in `tests/driftql.rs`.

use proptest::prelude::*;

use super::*;
use crate::error::Reason;
use crate::format::document::Document;
use crate::format::{json, path::Path};
use crate::limits;
use crate::query::ast::TableName;
use crate::query::ast::{Comparison, PointInTime, Projection, SelectItem, SelectStatement, StatementKind};
use crate::query::in_list::InList;
use crate::query::keywords::KEYWORDS;
use crate::query::like::LikePattern;
use crate::query::local_clock::LocalClock;
use crate::query::report;
use crate::table::schema::Schema;

fn parsed(text: &str) -> Statement {
    parse(text, &[]).unwrap_or_else(|error| panic!("{}", report::describe(&error, text)))
}

fn fails(text: &str, params: &[Value]) -> (String, String) {
    let error = parse(text, params).expect_err(text);
    let place = error.place().unwrap_or_else(|| panic!("no place: {error}"));
    assert!(place.start <= place.end && place.end as usize <= text.len(), "{text}");
    (error.message().to_owned(), place.hint.clone())
}

#[test]
fn every_statement_of_the_first_version_parses() {
    for (text, kind) in [
        ("CREATE TABLE users (pk=id, INDEX(email, status))", StatementKind::Write),
        (r#"INSERT INTO users {"id": "user1", "email": "alice@example.com"}"#, StatementKind::Write),
        ("CREATE TABLE orders (pk=id, INDEX(status, customer_id))", StatementKind::Write),
        (r#"PATCH orders KEY "order1" SET {"status": "paid"}"#, StatementKind::Write),
        (r#"SOFT DELETE FROM orders KEY "order1""#, StatementKind::Write),
        (r#"SELECT * FROM orders WHERE status="paid" AS OF "2025-01-01T00:00:00Z""#, StatementKind::Read),
        (r#"SELECT * FROM orders WHERE customer_id="cust1" AS OF "@seq:1000""#, StatementKind::Read),
        (r#"SHOW DRIFT orders KEY "order1""#, StatementKind::Read),
        ("SNAPSHOT orders", StatementKind::Maintenance),
        ("COMPACT orders", StatementKind::Maintenance),
        ("BEGIN", StatementKind::Transaction),
    ] {
        assert_eq!(parsed(text).kind(), kind);
        assert_eq!(parsed(&format!("{text} ; -- done")), parsed(text));
        assert_eq!(parsed(&text.replace("FROM", "from")).kind(), kind);
    }
}

#[test]
fn select_clauses_come_in_any_order() {
    let expected = Statement::Select(SelectStatement {
        deleted: false,
        every: None,
        table: TableName { text: "t".into(), start: 21, end: 22 },
        projection: Projection::Items(vec![
            SelectItem { column: Column::Key, alias: None },
            SelectItem { column: Column::Path(Path::new(vec!["a".into(), "b".into()])), alias: None },
        ]),
        distinct: false,
        group_by: Vec::new(),
        having: None,
        order_by: Vec::new(),
        condition: Some(Condition::Compare {
            column: Column::Path(Path::field("x")),
            op: Comparison::NotEqual,
            value: Value::Int(1),
        }),
        as_of: Some(PointInTime::Seq(9)),
        limit: Some(10),
        offset: Some(5),
    });
    for clauses in
        ["WHERE x <> 1 AS OF @seq:9 LIMIT 10 OFFSET 5", "as of '@SEQ:9' offset 5 limit 10 where x!=1"]
    {
        assert_eq!(parsed(&format!("SELECT _key,a.b FROM t {clauses}")), expected);
    }
}

#[test]
fn parameters_are_allowed_wherever_values_are() {
    let params = ["\"o1\"", "{\"a\": [1]}", "5", "null"].map(|text| parse_param(text).unwrap());
    let with = |text: &str| parse(text, &params).unwrap();
    assert_eq!(
        with("PATCH t KEY $1 SET {\"n\": [$2, $4]} IF SEQ = $3"),
        parsed("PATCH t KEY 'o1' SET {\"n\": [{\"a\": [1]}, null]} IF SEQ = 5").tap_key_span(12, 14),
    );
    assert_eq!(with("SELECT * FROM t WHERE a = $3 LIMIT $3"), parsed("SELECT * FROM t WHERE a = 5 LIMIT 5"));
    assert_eq!(fails("SELECT * FROM t WHERE a = $4", &params).1, "write a IS NULL");
    assert_eq!(fails("INSERT INTO t $1", &params).0, "expected a JSON object, found a string");
    let (message, _) = fails("SELECT * FROM t WHERE a = $5", &params);
    assert_eq!(message, "$5 has no value: 4 parameters are given");
    assert!(fails("SELECT * FROM t WHERE a = $0", &params).0.starts_with("$0 has no value"));
    assert!(fails("SELECT * FROM t WHERE a = $99999999999999999999", &params).0.contains("has no value"));
}

trait TapKeySpan {
    fn tap_key_span(self, start: usize, end: usize) -> Self;
}

impl TapKeySpan for Statement {
    /// The statement with its key at another place.
    fn tap_key_span(mut self, start: usize, end: usize) -> Self {
        if let Statement::Patch { key, .. } = &mut self {
            (key.start, key.end) = (start, end);
        }
        self
    }
}

#[test]
fn copies_of_a_large_parameter_are_limited() {
    let large = [Value::Str("x".repeat(1 << 20))];
    let list = vec!["$1"; 1000].join(", ");
    let (message, _) = fails(&format!("SELECT * FROM t WHERE a IN ({list})"), &large);
    assert!(message.contains("larger than"), "{message}");
    let mut deep = Value::Null;
    for _ in 0..limits::NESTING {
        deep = Value::Array(vec![deep]);
    }
    assert!(parse_condition("a = $1", &[deep.clone()]).is_ok());
    assert!(parse_condition("a = [$1]", &[deep]).unwrap_err().message().contains("nested more than"));
}

#[test]
fn keywords_can_be_names() {
    let condition = |text: &str| parse_condition(text, &[]).unwrap();
    assert_eq!(
        condition("key = 1 AND set = 2 AND count = 3"),
        condition("`key` = 1 AND `set` = 2 AND `count` = 3")
    );
    assert_eq!(condition("a.from = 1"), condition("a.`from` = 1"));
    let error = parse_condition("from = 1", &[]).unwrap_err();
    assert_eq!(error.place().unwrap().hint, "to use it as a name, write it in backticks: `from`");
    assert_eq!(parse_column("from").unwrap(), Column::Path(Path::field("from")));
    assert_eq!(parse_column("`_key`").unwrap(), Column::Path(Path::field("_key")));
    assert_eq!(parse_column("_KEY").unwrap(), Column::Path(Path::field("_KEY")));
    assert!(parse_column("_key.a").is_err() && parse_column("a b").is_err() && parse_column("").is_err());
    assert!(matches!(parsed("SELECT count FROM drift"), Statement::Select(_)));
}

#[test]
fn a_key_must_have_its_tables_type() {
    let key = |text: &str| match parsed(text) {
        Statement::SoftDelete { key, .. } => key,
        other => panic!("{other:?}"),
    };
    let table = |primary_key: &str, key_type: &str| Schema {
        table: "t".into(),
        primary_key: primary_key.into(),
        key_type: key_type.parse().unwrap(),
        indexes: Vec::new(),
        retain_ms: None,
        auto_key: false,
    };
    let (texts, ints) = (table("id", "STRING"), table("id", "INT"));
    let text = "SOFT DELETE FROM t KEY \"7\"";
    assert_eq!(key(text).of_table(&texts, text).unwrap().to_string(), "7");
    let error = key(text).of_table(&ints, text).unwrap_err();
    assert_eq!((error.place().unwrap().start, error.place().unwrap().hint.as_str()), (23, "write KEY 7"));
    let text = "SOFT DELETE FROM t KEY -7";
    let error = key(text).of_table(&texts, text).unwrap_err();
    assert_eq!(error.place().unwrap().hint, "write KEY \"-7\"");

    let pairs = table("(a, b)", "(STRING, INT)");
    for text in [
        "SOFT DELETE FROM t KEY (\"x\", 3)",
        "SOFT DELETE FROM t KEY (a = \"x\", b = 3)",
        "SOFT DELETE FROM t KEY (`b` = 3, a = \"x\")",
    ] {
        assert_eq!(key(text).of_table(&pairs, text).unwrap().to_string(), "[\"x\",3]", "{text}");
    }
    for (text, schema, expected, hint) in [
        (
            "\"x\"",
            &pairs,
            "have type (STRING, INT), but this key is a string",
            "for example KEY (a = \"x\", b = 3)",
        ),
        ("(\"x\", \"3\")", &pairs, "but this key is (STRING, STRING)", "for example KEY (a = \"x\", b = 3)"),
        ("(\"x\", 3, 4)", &pairs, "but this key is (STRING, INT, INT)", "for example KEY (a = \"x\", b = 3)"),
        ("(\"x\", 3)", &ints, "have type INT, but this key is (STRING, INT)", "write an integer"),
        ("(a = \"x\", c = 3)", &pairs, "(a, b), which has no field \"c\"", ""),
        ("(a = \"x\", b = \"3\")", &pairs, "and \"b\" is INT, but \"3\" is not", ""),
        ("(a = \"x\", b = 3)", &texts, "names its fields", ""),
    ] {
        let text = format!("SOFT DELETE FROM t KEY {text}");
        let error = key(&text).of_table(schema, &text).unwrap_err();
        assert!(error.message().contains(expected), "{text}: {error}");
        let place = error.place().unwrap();
        assert_eq!(
            (place.hint.as_str(), &text[place.start as usize..place.end as usize]),
            (hint, &text[23..]),
            "{text}"
        );
    }
}

/// Each of these ends in an error on the small stack of a test thread. Quadratic work would not end at all.
#[test]
fn large_and_deep_input_is_refused() {
    for one in
        ["(", "NOT ", "[", "\"", "{", "{\"a\":", "a.", "1,", "$1", "@", "-- \n", "a AND ", "'\\", "\u{1f600}"]
    {
        let many = one.repeat((1 << 20) / one.len());
        for prefix in
            ["", "SELECT * FROM t WHERE ", "SELECT * FROM t WHERE a = ", "INSERT INTO t ", "SELECT "]
        {
            let text = format!("{prefix}{many}");
            assert!(parse(&text, &[]).is_err(), "{prefix}{one}…");
            assert!(parse_point(&text, &LocalClock::utc(0)).is_err());
            let error = parse_param(&text).unwrap_err();
            assert!(!report::describe(&error, &text).is_empty());
        }
    }
}

#[test]
fn nesting_is_limited() {
    let deep =
        |open: &str, inner: &str, close: &str, n| format!("{}{inner}{}", open.repeat(n), close.repeat(n));
    let n = limits::NESTING;
    assert!(parse_condition(&deep("(", "a = 1", ")", n), &[]).is_ok());
    assert!(parse_condition(&deep("(", "a = 1", ")", n + 1), &[]).is_err());
    assert!(parse_condition(&deep("NOT ", "a = 1", "", n), &[]).is_ok());
    assert!(parse_condition(&deep("NOT (", "a = 1", ")", n / 2 + 1), &[]).is_err());
    assert!(parse_param(&deep("[", "", "]", n)).is_ok());
    assert!(parse_param(&deep("[", "", "]", n + 1)).is_err());
    assert!(parse_param(&deep("{\"a\":", "1", "}", n)).is_ok());
    assert!(parse_param(&deep("{\"a\":", "1", "}", n + 1)).is_err());
    // The deepest that is allowed, both ways at once, still fits the stack, and can be evaluated and printed.
    let both = deep("(", &format!("a = {}", deep("[", "", "]", n)), ")", n);
    let condition = parse_condition(&both, &[]).unwrap();
    assert_eq!(parse_condition(&condition.to_string(), &[]).unwrap(), condition);
}

#[test]
fn parsing_many_fields_takes_linear_time() {
    let fields: Vec<String> = (0..100_000).map(|i| format!("\"field{i}\": {i}")).collect();
    assert!(parse_param(&format!("{{{}}}", fields.join(","))).is_ok());
    let error = parse_param(&format!("{{{}, 'field7': 1}}", fields.join(","))).unwrap_err();
    assert_eq!(error.message(), "field \"field7\" is given twice in one object");
}

#[test]
fn the_size_of_a_statement_is_limited() {
    let text = " ".repeat(limits::STATEMENT_BYTES + 1);
    assert_eq!(parse(&text, &[]).unwrap_err().reason(), Reason::TooLarge);
}

#[test]
fn strings_have_json_escapes() {
    let string = |text: &str| parse_param(text).map(|value| value == Value::Str("é😀\n\"'/".into()));
    assert!(string(r#""\u00e9\uD83D\uDE00\n\"'\/""#).unwrap());
    assert!(string(r#"'é😀\n"\'/'"#).unwrap());
    for text in
        [r#""\ud83d""#, r#""\ude00\ud83d""#, r#""\ud83d\u0041""#, r#""\u12""#, r#""\u+123""#, r#""\x""#]
    {
        assert!(parse_param(text).is_err(), "{text}");
    }
    assert!(parse_param("\"a\tb\"").unwrap_err().message().contains("control character"));
    assert!(parse_param("\"a\\é\"").is_err());
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<u64>().prop_map(serde_json::Value::from),
        any::<f64>().prop_map(serde_json::Value::from),
        any::<String>().prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn any_value() -> impl Strategy<Value = Value> {
    any_json().prop_map(|value| parse_param(&value.to_string()).unwrap())
}

fn any_column() -> impl Strategy<Value = Column> {
    prop_oneof![
        1 => Just(Column::Key),
        6 => prop::collection::vec("[a-z_]{1,6}|from|NOT|_key|.{0,4}", 1..3)
            .prop_map(|names| Column::Path(Path::new(names))),
    ]
}

/// Values that a column may be compared with.
fn any_operand() -> impl Strategy<Value = (Column, Value)> {
    let time = (-60_000_000_000_000i128..253_000_000_000_000, any::<bool>());
    #[expect(clippy::cast_precision_loss)]
    let millis = |(ms, half): (i128, bool)| if half { Value::Float(ms as f64 + 0.5) } else { Value::Int(ms) };
    prop_oneof![
        6 => (any_column(), any_value()).prop_map(|(column, value)| match (&column, value) {
            (_, Value::Null) | (Column::Key, Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
                (column, Value::Int(0))
            }
            (_, value) => (column, value),
        }),
        1 => any::<u64>().prop_map(|n| (Column::Seq, Value::Int(n.into()))),
        1 => time.prop_map(move |time| (Column::Time, millis(time))),
    ]
}

fn any_condition() -> impl Strategy<Value = Condition> {
    use Comparison::*;
    let op = prop::sample::select(vec![Equal, NotEqual, Less, LessOrEqual, Greater, GreaterOrEqual]);
    let leaf = prop_oneof![
        (any_operand(), op).prop_map(|((column, value), op)| Condition::Compare { column, op, value }),
        (any_operand(), any::<bool>(), any::<bool>()).prop_map(|((column, value), null, negated)| {
            let values = if null { vec![value.clone(), Value::Null, value] } else { vec![value] };
            Condition::In { column, values: InList::new(values), negated }
        }),
        (any_operand(), any::<bool>()).prop_map(|((column, low), negated)| Condition::Between {
            column,
            high: low.clone(),
            low,
            negated
        }),
        (any_column(), "[^\\\\]*", any::<bool>()).prop_map(|(column, pattern, negated)| Condition::Like {
            column,
            pattern: LikePattern::new(pattern),
            negated
        }),
        (any_column(), any::<bool>()).prop_map(|(column, negated)| Condition::IsNull { column, negated }),
        (any_column(), any::<bool>()).prop_map(|(column, negated)| Condition::IsMissing { column, negated }),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Condition::And),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Condition::Or),
            inner.prop_map(|inner| Condition::Not(Box::new(inner))),
        ]
    })
}

/// Words, symbols and literals in any order: far more often nearly a statement than any string is.
fn token_soup() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        4 => prop::sample::select(KEYWORDS.to_vec()).prop_map(str::to_owned),
        2 => prop::sample::select(vec!["(", ")", "{", "}", "[", "]", ",", ":", ";", ".", "*", "=", "<", "!="])
            .prop_map(str::to_owned),
        2 => prop::sample::select(vec!["t", "a", "`b`", "_key", "_time", "\"x\"", "'@now'", "@seq:1", "$1", "$2",
            "1", "-2.5", "\"5 minutes ago\"", "{\"id\": 1}", "true", "null", "--", "/*", "\""])
            .prop_map(str::to_owned),
    ];
    prop::collection::vec(token, 0..20).prop_map(|tokens| tokens.join(" "))
}

fn check_any_text(text: &str) {
    let params = [Value::Int(1)];
    for error in [
        parse(text, &params).err(),
        parse_condition(text, &params).err(),
        parse_param(text).err(),
        parse_point(text, &LocalClock::utc(0)).err(),
        parse_column(text).err(),
    ]
    .into_iter()
    .flatten()
    {
        let place = error.place().expect("every error has a place");
        assert!(text.get(place.start as usize..place.end as usize).is_some(), "{text:?}: {place:?}");
        assert!(report::describe(&error, text).starts_with("error: "));
    }
    for piece in crate::query::script::split(text) {
        assert_eq!(text.get(piece.offset..piece.offset + piece.text.len()), Some(piece.text));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_text_gives_an_answer(text in any::<String>()) {
        check_any_text(&text);
    }

    #[test]
    fn any_tokens_give_an_answer(text in token_soup()) {
        check_any_text(&text);
    }

    #[test]
    fn a_printed_condition_is_the_same_condition(condition in any_condition()) {
        let text = condition.to_string();
        let again = parse_condition(&text, &[]);
        let again = again.unwrap_or_else(|error| panic!("{}", report::describe(&error, &text)));
        prop_assert_eq!(again, condition, "{}", text);
    }

    #[test]
    fn a_literal_is_what_the_json_is(value in any_json()) {
        let text = value.to_string();
        let expected = Value::decode(&json::to_msgpack(&text).unwrap()).unwrap();
        prop_assert_eq!(&parse_param(&text).unwrap(), &expected);
        if value.is_object() {
            let Statement::Insert { documents, .. } = parsed(&format!("INSERT INTO t {text}")) else {
                panic!("{text}");
            };
            prop_assert_eq!(&documents, &[Document::from_json(&text).unwrap()]);
        }
    }
}
