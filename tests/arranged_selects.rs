//! ORDER BY, DISTINCT, GROUP BY, HAVING and aggregates return what a plain model says, whatever indexes a table has, at every
//! commit, and before and after snapshots, compactions and restarts.

use std::cmp::Ordering;
use std::fmt::Write as _;

use crate::harness::calls::{Outcome, ask, compact, snapshot};
use crate::harness::condition::{Condition, Random, Row, compare_values, operand, order};
use crate::harness::indexed_tables::{IndexedTables, TABLES};
use crate::harness::*;
use serde_json::{Map, Value, json};

const COLUMNS: [&str; 5] = ["a", "b", "n.c", "_key", "_seq"];

/// A column or an aggregate.
#[derive(Debug, Clone, PartialEq)]
enum Item {
    Column(&'static str),
    Rows,
    Aggregate(&'static str, &'static str),
}

impl Item {
    fn text(&self) -> String {
        match self {
            Item::Column(column) => (*column).to_owned(),
            Item::Rows => "COUNT(*)".to_owned(),
            Item::Aggregate("COUNT DISTINCT", column) => format!("COUNT(DISTINCT {column})"),
            Item::Aggregate(function, column) => format!("{function}({column})"),
        }
    }
}

/// A statement, without its table and point in time.
#[derive(Debug, Clone, Default)]
struct Question {
    distinct: bool,
    items: Vec<(Item, Option<&'static str>)>,
    condition: Option<Condition>,
    group_by: Vec<&'static str>,
    having: Option<(Item, &'static str, Value)>,
    order_by: Vec<(Item, bool)>,
    limit: Option<usize>,
    offset: usize,
}

/// What a row or a group has: values in the order of the items.
type Values = Vec<Option<Value>>;

/// A sum is too large.
#[derive(Debug)]
struct Overflow;

/// The documented total order: booleans, numbers, texts, arrays, objects; then null; then a missing field.
fn total_order(a: &Option<Value>, b: &Option<Value>, descending: bool) -> Ordering {
    let rank = |value: &Option<Value>| match value {
        Some(Value::Bool(_)) => 1,
        Some(Value::Number(_)) => 2,
        Some(Value::String(_)) => 3,
        Some(Value::Array(_)) => 4,
        Some(Value::Object(_)) => 5,
        Some(Value::Null) => 6,
        None => 7,
    };
    let found = match (a, b) {
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            let pairs = a.iter().cloned().map(Some).zip(b.iter().cloned().map(Some));
            let first = pairs.map(|(a, b)| total_order(&a, &b, false)).find(|order| order.is_ne());
            first.unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let list = |fields: &Map<String, Value>| {
                let mut fields: Vec<_> = fields.clone().into_iter().collect();
                fields.sort_by(|a, b| a.0.cmp(&b.0));
                fields
            };
            let (a, b) = (list(a), list(b));
            let pair = |((name, a), (other, b)): (&(String, Value), &(String, Value))| {
                name.cmp(other).then_with(|| total_order(&Some(a.clone()), &Some(b.clone()), false))
            };
            a.iter().zip(&b).map(pair).find(|order| order.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Some(a), Some(b)) if rank(&Some(a.clone())) == rank(&Some(b.clone())) => {
            order(a, b).unwrap_or(Ordering::Equal)
        }
        _ => rank(a).cmp(&rank(b)),
    };
    let are_values = rank(a) < 6 && rank(b) < 6;
    if descending && are_values { found.reverse() } else { found }
}

fn same(a: &Values, b: &Values) -> bool {
    a.iter().zip(b).all(|(a, b)| total_order(a, b, false).is_eq())
}

fn whole(value: &Value) -> Option<i128> {
    value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from))
}

/// An aggregate over rows. Floats in these rows are exact, in any order.
fn aggregate(function: &str, column: &str, rows: &[&Row]) -> Result<Value, Overflow> {
    let values: Vec<Value> =
        rows.iter().filter_map(|row| operand(column, row)).filter(|value| !value.is_null()).collect();
    let numbers: Vec<&Value> = values.iter().filter(|value| value.is_number()).collect();
    let sum = || numbers.iter().map(|value| value.as_f64().unwrap()).sum::<f64>();
    let better = |a: &Value, b: &Value| {
        // Of equal numbers, the integer.
        let (a, b) = (Some(a.clone()), Some(b.clone()));
        total_order(&a, &b, false)
    };
    Ok(match function {
        "COUNT" => values.len().into(),
        "COUNT DISTINCT" => {
            let mut found: Vec<Values> = Vec::new();
            for value in values.into_iter().map(|value| vec![Some(value)]) {
                if !found.iter().any(|known| same(known, &value)) {
                    found.push(value);
                }
            }
            found.len().into()
        }
        "SUM" if numbers.is_empty() => Value::Null,
        "SUM" => match numbers.iter().map(|value| whole(value)).sum::<Option<i128>>() {
            Some(sum) => match (i64::try_from(sum), u64::try_from(sum)) {
                (Ok(sum), _) => sum.into(),
                (_, Ok(sum)) => sum.into(),
                _ => return Err(Overflow),
            },
            None => sum().into(),
        },
        "AVG" if numbers.is_empty() => Value::Null,
        "AVG" => match numbers.iter().map(|value| whole(value)).sum::<Option<i128>>() {
            Some(sum) => (sum as f64 / numbers.len() as f64).into(),
            None => (sum() / numbers.len() as f64).into(),
        },
        function => {
            let mut found: Option<Value> = None;
            for value in values {
                let is_better = found.as_ref().is_none_or(|found| match better(&value, found) {
                    Ordering::Equal => whole(&value).is_some() && whole(found).is_none(),
                    order => order.is_lt() == (function == "MIN"),
                });
                if is_better {
                    found = Some(value);
                }
            }
            found.unwrap_or(Value::Null)
        }
    })
}

fn value_of(item: &Item, rows: &[&Row]) -> Result<Option<Value>, Overflow> {
    match item {
        Item::Column(column) => Ok(rows.first().and_then(|row| operand(column, row))),
        Item::Rows => Ok(Some(rows.len().into())),
        Item::Aggregate(function, column) => aggregate(function, column, rows).map(Some),
    }
}

impl Question {
    fn is_grouped(&self) -> bool {
        let is_aggregate = |item: &Item| !matches!(item, Item::Column(_));
        !self.group_by.is_empty()
            || self.having.is_some()
            || self.items.iter().any(|(item, _)| is_aggregate(item))
            || self.order_by.iter().any(|(item, _)| is_aggregate(item))
    }

    fn labels(&self) -> Vec<String> {
        self.items.iter().map(|(item, alias)| alias.map_or_else(|| item.text(), str::to_owned)).collect()
    }

    fn statement(&self, table: &str, seq: usize) -> String {
        let list = |texts: Vec<String>| texts.join(", ");
        let mut text = format!("SELECT {}", if self.distinct { "DISTINCT " } else { "" });
        let items = self.items.iter().map(|(item, alias)| match alias {
            Some(alias) => format!("{} AS {alias}", item.text()),
            None => item.text(),
        });
        text += &if self.items.is_empty() { "*".to_owned() } else { list(items.collect()) };
        write!(text, " FROM {table} AS OF @seq:{seq}").unwrap();
        if let Some(condition) = &self.condition {
            write!(text, " WHERE {}", condition.text(&mut None)).unwrap();
        }
        if !self.group_by.is_empty() {
            write!(text, " GROUP BY {}", self.group_by.join(", ")).unwrap();
        }
        if let Some((item, op, value)) = &self.having {
            write!(text, " HAVING {} {op} {value}", self.name(item)).unwrap();
        }
        if !self.order_by.is_empty() {
            let order = self.order_by.iter().map(|(item, descending)| {
                format!("{}{}", self.name(item), if *descending { " DESC" } else { "" })
            });
            write!(text, " ORDER BY {}", list(order.collect())).unwrap();
        }
        text += &self.limit.map(|limit| format!(" LIMIT {limit}")).unwrap_or_default();
        if self.offset > 0 {
            write!(text, " OFFSET {}", self.offset).unwrap();
        }
        text
    }

    /// An item after the select list: by its alias if it has one.
    fn name(&self, item: &Item) -> String {
        let selected = self.items.iter().find(|(known, _)| known == item);
        selected.and_then(|(_, alias)| alias.map(str::to_owned)).unwrap_or_else(|| item.text())
    }

    /// What the statement must return.
    fn answer(&self, rows: &[&Row]) -> Result<Vec<Value>, Overflow> {
        let met =
            |row: &&&Row| self.condition.as_ref().is_none_or(|condition| condition.met(row) == Some(true));
        let rows: Vec<&Row> = rows.iter().filter(met).copied().collect();
        let groups =
            if self.is_grouped() { self.groups(&rows) } else { rows.iter().map(|row| vec![*row]).collect() };
        let mut results: Vec<(Values, Value)> = Vec::new();
        let mut seen: Vec<Values> = Vec::new();
        for group in groups {
            if let Some((item, op, value)) = &self.having
                && compare_values(value_of(item, &group)?, op, value) != Some(true)
            {
                continue;
            }
            let values: Values =
                self.items.iter().map(|(item, _)| value_of(item, &group)).collect::<Result<_, _>>()?;
            if self.distinct {
                if seen.iter().any(|known| same(known, &values)) {
                    continue;
                }
                seen.push(values.clone());
            }
            let keys: Values =
                self.order_by.iter().map(|(item, _)| value_of(item, &group)).collect::<Result<_, _>>()?;
            let fields = self.labels().into_iter().zip(values);
            let document: Map<String, Value> =
                fields.filter_map(|(label, value)| Some((label, value?))).collect();
            let whole = || group[0].document.clone();
            results.push((keys, if self.items.is_empty() { whole() } else { document.into() }));
        }
        results.sort_by(|(a, _), (b, _)| {
            let each = a.iter().zip(b).zip(&self.order_by);
            each.map(|((a, b), (_, descending))| total_order(a, b, *descending))
                .find(|order| order.is_ne())
                .unwrap_or(Ordering::Equal)
        });
        let limit = self.limit.unwrap_or(usize::MAX);
        Ok(results.into_iter().map(|(_, result)| result).skip(self.offset).take(limit).collect())
    }

    /// The groups, in the order of their columns; the rows of each in the order of keys.
    fn groups<'r>(&self, rows: &[&'r Row]) -> Vec<Vec<&'r Row>> {
        if self.group_by.is_empty() {
            return vec![rows.to_vec()];
        }
        let mut groups: Vec<(Values, Vec<&Row>)> = Vec::new();
        for row in rows {
            let values: Values = self.group_by.iter().map(|column| operand(column, row)).collect();
            match groups.iter_mut().find(|(known, _)| same(known, &values)) {
                Some((_, group)) => group.push(row),
                None => groups.push((values, vec![row])),
            }
        }
        groups.sort_by(|(a, _), (b, _)| {
            a.iter()
                .zip(b)
                .map(|(a, b)| total_order(a, b, false))
                .find(|order| order.is_ne())
                .unwrap_or(Ordering::Equal)
        });
        groups.into_iter().map(|(_, group)| group).collect()
    }
}

fn literal(random: &mut Random) -> Value {
    random.pick(json!([0, 1, 2, 2.0, "x", "xy", "", true]).as_array().unwrap())
}

fn condition(random: &mut Random) -> Condition {
    let path = random.pick(&["a", "b", "n.c"]);
    let value = literal(random);
    let one = match random.below(8) {
        0 => Condition::Contains(path, value, random.below(2) == 0),
        1 => Condition::Any(path, random.pick(&["=", "!=", "<", ">="]), value),
        2 => Condition::ILike(path, random.pick(&["X%", "xY", "%"]), random.below(3) == 0),
        3 => Condition::IsMissing(path, random.below(2) == 0),
        4 => Condition::In(path, vec![value, literal(random)], false),
        5 => Condition::Compare("_key", random.pick(&["<", ">="]), json!("k30")),
        _ => Condition::Compare(path, random.pick(&["=", "!=", "<", ">="]), value),
    };
    match random.below(4) {
        0 => Condition::Or(vec![one, Condition::Compare("a", "=", literal(random))]),
        1 => Condition::And(vec![one, Condition::Compare("b", "!=", literal(random))]),
        2 => Condition::Not(Box::new(one)),
        _ => one,
    }
}

fn aggregate_item(random: &mut Random) -> Item {
    let functions = ["COUNT", "COUNT DISTINCT", "SUM", "AVG", "MIN", "MAX"];
    match random.below(7) {
        0 => Item::Rows,
        _ => Item::Aggregate(random.pick(&functions), random.pick(&COLUMNS)),
    }
}

fn columns(random: &mut Random, most: usize) -> Vec<&'static str> {
    let mut columns: Vec<&str> = Vec::new();
    for _ in 0..random.below(most + 1) {
        let column = random.pick(&COLUMNS);
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    columns
}

fn question(random: &mut Random) -> Question {
    let mut question = Question::default();
    if random.below(2) == 0 {
        question.condition = Some(condition(random));
    }
    let is_grouped = random.below(2) == 0;
    let mut possible: Vec<Item> = Vec::new();
    if is_grouped {
        question.group_by = columns(random, 2);
        possible.extend(question.group_by.iter().map(|column| Item::Column(column)));
        for _ in 0..1 + random.below(3) {
            let item = aggregate_item(random);
            if !possible.contains(&item) {
                possible.push(item);
            }
        }
        if random.below(3) == 0 {
            let item = random.pick(&possible);
            // `_key` is compared with texts and numbers only.
            let value = random.pick(json!([0, 1, 2.0, "x", "k20"]).as_array().unwrap());
            let value = if item == Item::Column("_seq") { json!(20) } else { value };
            question.having = Some((item, random.pick(&["=", "<", ">=", "!="]), value));
        }
    } else {
        possible.extend(columns(random, 3).into_iter().map(Item::Column));
    }
    for item in &possible {
        let alias = random.pick(&[None, None, Some("first"), Some("second"), Some("third")]);
        let is_free = alias.is_none() || question.items.iter().all(|(_, known)| *known != alias);
        question.items.push((item.clone(), alias.filter(|_| is_free)));
    }
    question.distinct = !question.items.is_empty() && random.below(3) == 0;
    if !is_grouped && !question.distinct {
        possible.extend(["a", "n.c"].map(Item::Column).into_iter().filter(|_| random.below(2) == 0));
    }
    for _ in 0..random.below(3) {
        if !possible.is_empty() {
            let item = random.pick(&possible);
            if question.order_by.iter().all(|(known, _)| *known != item) {
                question.order_by.push((item, random.below(2) == 0));
            }
        }
    }
    // Alone, COUNT(*) counts no more rows than LIMIT says.
    let counts_rows = question.items.iter().any(|(item, _)| *item == Item::Rows) && question.items.len() == 1;
    if random.below(3) == 0 && !counts_rows {
        question.limit = Some(1 + random.below(8));
        question.offset = [0, 0, 2][random.below(3)];
    }
    question
}

struct Run(IndexedTables);

impl Run {
    /// Asks every table the same, at a commit.
    async fn check(&mut self, seq: usize) {
        let question = question(&mut self.0.random);
        let rows: Vec<Row> = self.0.states[seq].values().cloned().collect();
        let expected = question.answer(&rows.iter().collect::<Vec<_>>());
        let last = self.0.last() as u64;
        for (table, _) in TABLES {
            let statement = question.statement(table, seq);
            let answer = ask(self.0.reader.as_mut().unwrap(), &statement, last).await;
            let Ok(expected) = &expected else {
                assert_eq!(reason(&answer.unwrap_err()), "QUERY_INVALID", "{statement}");
                continue;
            };
            let answer = answer.unwrap_or_else(|status| panic!("{statement}: {status:?}"));
            assert_eq!(answer.documents(), *expected, "{statement}");
            if let [Outcome::Results(first), ..] = answer.results.as_slice() {
                assert_eq!(first.columns, question.labels(), "{statement}");
            }
        }
    }

    async fn check_some(&mut self, count: usize) {
        for _ in 0..count {
            let (floor, last) = (self.0.floor, self.0.last());
            let seq = floor + self.0.random.below(last + 1 - floor);
            self.check(seq).await;
            self.check(last).await;
        }
    }
}

#[tokio::test]
async fn arranged_selects_return_what_the_model_says() {
    let seed = lane::by_lane(11, 110);
    let mut run = Run(IndexedTables::new(seed as u64).await);
    for round in 0..lane::by_lane(4, 40) {
        for _ in 0..40 {
            run.0.commit().await;
        }
        run.check_some(20).await;
        if round == 1 {
            run.0.write("CREATE INDEX ON late ((b, a), b)").await;
        }
        for (table, _) in TABLES {
            snapshot(run.0.writer.as_mut().unwrap(), table).await.unwrap();
        }
        run.check_some(20).await;
        if round % 2 == 1 {
            let floor = run.0.floor + (run.0.last() - run.0.floor) / 2;
            for (table, _) in TABLES {
                compact(run.0.writer.as_mut().unwrap(), table, at_seq(floor as u64), false).await.unwrap();
            }
            run.0.floor = floor;
            run.check_some(10).await;
        }
        run.0.restart().await;
        run.check_some(10).await;
    }
}

/// Large rows, of which one message holds few, with one value of `s`.
async fn large_rows() -> (Cluster, u64) {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let text = "x".repeat(300_000);
    let row = |n: usize| {
        insert("t", json!({"id": n.to_string(), "s": "same", "text": format!("{n}{text}")}).to_string())
    };
    let seen = apply(&mut cluster.writer, (0..8).map(row).collect()).await.unwrap().seq;
    (cluster, seen)
}

/// Also if the last rows add no result.
#[tokio::test]
async fn every_message_of_a_grouped_select_has_results() {
    let (mut cluster, seen) = large_rows().await;
    for statement in
        ["SELECT DISTINCT s FROM t", "SELECT DISTINCT s FROM t ORDER BY s", "SELECT s FROM t GROUP BY s"]
    {
        let answer = ask(&mut cluster.reader, statement, seen).await.unwrap();
        assert!(answer.results.iter().all(|result| matches!(result, Outcome::Results(_))), "{statement}");
        assert_eq!(answer.documents(), [json!({"s": "same"})], "{statement}");
        let Outcome::Results(first) = &answer.results[0] else { unreachable!() };
        assert_eq!(first.columns, ["s"], "{statement}");
    }
}

/// Results that are larger than the rows that they are made of do not pile up, and none is lost.
#[tokio::test]
async fn results_can_be_larger_than_rows() {
    let (mut cluster, seen) = large_rows().await;
    let columns = (0..4).map(|n| format!("text AS t{n}")).collect::<Vec<_>>().join(", ");
    for statement in
        [format!("SELECT DISTINCT {columns} FROM t"), format!("SELECT {columns} FROM t GROUP BY text")]
    {
        let answer = ask(&mut cluster.reader, &statement, seen).await.unwrap();
        let found: Vec<_> =
            answer.documents().iter().map(|one| one["t3"].as_str().unwrap()[..2].to_owned()).collect();
        assert_eq!(found, (0..8).map(|n| format!("{n}x")).collect::<Vec<_>>(), "{statement}");
    }
}
