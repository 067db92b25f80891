//! Parses select lists, GROUP BY, HAVING and ORDER BY, and checks that they fit together.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::limits;
use crate::query::ast::{Column, Condition, OrderBy, Projection, SelectItem, SelectStatement};
use crate::query::lexer::{Token, TokenKind, clipped};
use crate::query::parser::state::{HavingScope, Parser, Reserved};

/// Where a SELECT has its columns and clauses, for the errors that only the whole statement shows.
#[derive(Debug, Default)]
pub(super) struct ColumnPlaces {
    pub(super) list: Vec<Token>,
    order_by: Vec<Token>,
    having: Vec<(Column, Token)>,
    /// The first words of clauses.
    pub(super) clauses: Vec<(&'static str, Token)>,
}

impl ColumnPlaces {
    /// Where a clause begins.
    pub(super) fn clause(&self, name: &str) -> Option<Token> {
        self.clauses.iter().find(|(clause, _)| *clause == name).map(|(_, token)| *token)
    }
}

impl Parser<'_> {
    /// Parses `[DISTINCT] * | item, …`. Returns whether DISTINCT is given.
    pub(super) fn select_list(&mut self, places: &mut ColumnPlaces) -> Result<(bool, Projection)> {
        let start = self.token;
        let distinct = self.at_keyword("DISTINCT") && !self.is_name_before_end()?;
        if distinct {
            self.advance()?;
        }
        places.list.push(self.token);
        if self.eat("*")? {
            if distinct {
                let hint = "remove DISTINCT, or write the fields";
                return Err(self.invalid(
                    start,
                    "DISTINCT * changes nothing: each row has a key of its own",
                    hint,
                ));
            }
            return Ok((distinct, Projection::All));
        }
        places.list.clear();
        let mut items: Vec<SelectItem> = Vec::new();
        loop {
            let start = self.token;
            if !items.is_empty() && self.at_keyword("FROM") {
                return Err(self.expected("a field", &[], "remove the last comma"));
            }
            let column = match start.kind {
                TokenKind::Word | TokenKind::Quoted | TokenKind::Str => self.column_or_aggregate()?,
                _ => return Err(self.expected("\"*\", a field or an aggregate", &[], "")),
            };
            if items.len() >= limits::SELECT_FIELDS {
                let message = format!("the SELECT has more than {} fields", limits::SELECT_FIELDS);
                return Err(self.too_large(start, message, "write * for all fields"));
            }
            let item = SelectItem { column, alias: self.alias()? };
            items.push(item);
            places.list.push(start);
            if !self.eat(",")? {
                self.check_labels(&items, places)?;
                return Ok((distinct, Projection::Items(items)));
            }
        }
    }

    /// Fails if two columns of the result have one name.
    fn check_labels(&self, items: &[SelectItem], places: &ColumnPlaces) -> Result<()> {
        let mut known = HashSet::new();
        for (label, token) in SelectItem::labels(items).into_iter().zip(&places.list) {
            if !known.insert(label.clone()) {
                let message = format!("{} is selected twice", clipped(&label));
                return Err(self.invalid(*token, message, "remove one of them, or name one with AS"));
            }
        }
        Ok(())
    }

    /// Whether the present word is the name of a field: something follows that cannot follow DISTINCT.
    fn is_name_before_end(&self) -> Result<bool> {
        let next = self.peek()?;
        let is_word =
            |word: &str| next.kind == TokenKind::Word && self.slice(next).eq_ignore_ascii_case(word);
        Ok(matches!(next.kind, TokenKind::Symbol("," | ".") | TokenKind::End)
            || is_word("FROM")
            || is_word("AS"))
    }

    fn alias(&mut self) -> Result<Option<String>> {
        if !self.eat_keyword("AS")? {
            return Ok(None);
        }
        let (name, token) = self.name("a name", Reserved::Refused)?;
        if token.kind == TokenKind::Word && ["_key", "_seq", "_time"].contains(&name.as_str()) {
            let hint = "choose another name";
            return Err(self.invalid(token, format!("{name} is a built-in column"), hint));
        }
        Ok(Some(name))
    }

    /// Parses the rest of `BY column, …`.
    pub(super) fn group_by(&mut self, items: &[SelectItem]) -> Result<Vec<Column>> {
        self.expect_keyword("BY")?;
        let mut columns = Vec::new();
        loop {
            let start = self.token;
            let column = self.output_column(items)?;
            if matches!(column, Column::Aggregate(_)) {
                let hint = "group by fields; HAVING and ORDER BY accept aggregates";
                return Err(self.invalid(
                    start,
                    format!("GROUP BY cannot contain {}", clipped(&column.to_string())),
                    hint,
                ));
            }
            if columns.contains(&column) {
                let message = format!("{} is grouped twice", clipped(&column.to_string()));
                return Err(self.invalid(start, message, "remove one of them"));
            }
            self.has_room(columns.len(), start)?;
            columns.push(column);
            if !self.eat(",")? {
                return Ok(columns);
            }
        }
    }

    /// Parses the rest of `BY column [ASC|DESC], …`.
    pub(super) fn order_by(
        &mut self,
        items: &[SelectItem],
        places: &mut ColumnPlaces,
    ) -> Result<Vec<OrderBy>> {
        self.expect_keyword("BY")?;
        self.order_columns(items, places)
    }

    /// Parses `column [ASC|DESC], …`.
    pub(super) fn order_columns(
        &mut self,
        items: &[SelectItem],
        places: &mut ColumnPlaces,
    ) -> Result<Vec<OrderBy>> {
        let mut order: Vec<OrderBy> = Vec::new();
        loop {
            let start = self.token;
            let column = self.output_column(items)?;
            if order.iter().any(|known| known.column == column) {
                let message = format!("{} is in ORDER BY twice", clipped(&column.to_string()));
                return Err(self.invalid(start, message, "remove one of them"));
            }
            self.has_room(order.len(), start)?;
            let descending = self.eat_keyword("DESC")?;
            if !descending {
                self.eat_keyword("ASC")?;
            }
            order.push(OrderBy { column, descending });
            places.order_by.push(start);
            if !self.eat(",")? {
                return Ok(order);
            }
        }
    }

    /// Fails if an order contains an aggregate.
    pub(super) fn only_rows(&self, order: &[OrderBy], places: &ColumnPlaces) -> Result<()> {
        for (order, token) in order.iter().zip(&places.order_by) {
            if let Column::Aggregate(aggregate) = &order.column {
                let message = format!("rows cannot be sorted by {}", clipped(&aggregate.to_string()));
                return Err(self.invalid(*token, message, "to sort groups, write a SELECT with GROUP BY"));
            }
        }
        Ok(())
    }

    fn has_room(&self, columns: usize, start: Token) -> Result<()> {
        if columns < limits::ORDER_COLUMNS {
            return Ok(());
        }
        let message = format!("GROUP BY and ORDER BY have at most {} columns", limits::ORDER_COLUMNS);
        Err(self.too_large(start, message, ""))
    }

    /// Parses the condition after HAVING.
    pub(super) fn having(&mut self, items: &[SelectItem], places: &mut ColumnPlaces) -> Result<Condition> {
        self.having = Some(HavingScope { items: items.to_vec(), named: Vec::new() });
        let condition = self.condition(0);
        places.having = self.having.take().unwrap_or_default().named;
        condition
    }

    /// Checks that the clauses fit together, and recognizes `COUNT(*)` alone.
    pub(super) fn checked_select(
        &self,
        mut select: SelectStatement,
        places: &ColumnPlaces,
    ) -> Result<SelectStatement> {
        if let Projection::Items(items) = &select.projection
            && let [SelectItem { column: Column::Aggregate(aggregate), alias: None }] = items.as_slice()
            && aggregate.argument.is_none()
            && select.group_by.is_empty()
            && select.having.is_none()
            && select.order_by.is_empty()
            && !select.distinct
        {
            select.projection = Projection::Count;
            return Ok(select);
        }
        if select.is_grouped() {
            self.check_groups(&select, places)?;
        }
        if select.distinct {
            let selected: HashSet<&Column> =
                select.projection.items().iter().map(|item| &item.column).collect();
            for (order, token) in select.order_by.iter().zip(&places.order_by) {
                if !selected.contains(&order.column) {
                    let message = format!("{} is not in the select list", clipped(&order.column.to_string()));
                    return Err(self.invalid(
                        *token,
                        message,
                        "with DISTINCT, ORDER BY accepts selected columns only",
                    ));
                }
            }
        }
        Ok(select)
    }

    fn check_groups(&self, select: &SelectStatement, places: &ColumnPlaces) -> Result<()> {
        if select.projection == Projection::All {
            let token = places.list.first().copied().unwrap_or(self.token);
            let hint = "write the grouped fields and aggregates, such as COUNT(*)";
            return Err(self.invalid(token, "SELECT * cannot be grouped", hint));
        }
        let grouped: HashSet<&Column> = select.group_by.iter().collect();
        let is_known = |column: &Column| matches!(column, Column::Aggregate(_)) || grouped.contains(column);
        let items =
            select.projection.items().iter().map(|item| &item.column).zip(places.list.iter().copied());
        let order = select.order_by.iter().map(|order| &order.column).zip(places.order_by.iter().copied());
        let having = places.having.iter().map(|(column, token)| (column, *token));
        match items.chain(order).chain(having).find(|(column, _)| !is_known(column)) {
            Some((column, token)) => Err(self.not_grouped(column, token)),
            None => Ok(()),
        }
    }

    fn not_grouped(&self, column: &Column, token: Token) -> Error {
        let name = column.to_string();
        let message = format!("{} is neither in GROUP BY nor in an aggregate", clipped(&name));
        self.invalid(token, message, format!("write GROUP BY {0}, or for example MAX({0})", clipped(&name)))
    }
}
