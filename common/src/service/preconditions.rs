//! Conversion of the preconditions of a commit: conditions on one row, and over many.

use driftdb::v1;

use crate::error::{Error, Reason, Result};
use crate::query::parser;
use crate::service::convert::precondition_from_wire;
use crate::table::operation::{Boundary, Precondition};

/// Parses the preconditions of a commit: those of one row, and those over many.
pub fn preconditions_from_wire(
    preconditions: Vec<v1::Precondition>,
) -> Result<(Vec<Precondition>, Vec<Boundary>)> {
    let (mut rows, mut boundaries) = (Vec::new(), Vec::new());
    for precondition in preconditions {
        if precondition.r#where.is_empty() {
            rows.push(precondition_from_wire(precondition)?);
        } else {
            boundaries.push(boundary_from_wire(precondition)?);
        }
    }
    Ok((rows, boundaries))
}

fn boundary_from_wire(precondition: v1::Precondition) -> Result<Boundary> {
    let v1::Precondition { table, key, check, r#where, params } = precondition;
    if !key.is_empty() {
        return Err(invalid("a precondition has either key or where, not both"));
    }
    let Some(v1::precondition::Check::UnchangedSince(unchanged_since)) = check else {
        return Err(invalid("a precondition with where needs unchanged_since"));
    };
    let bytes = r#where.len() + params.iter().map(String::len).sum::<usize>();
    Boundary::check_bytes(bytes)?;
    let condition = parser::parse_condition(&r#where, &parser::parse_params(&params)?)?.to_string();
    Ok(Boundary { table, condition, unchanged_since })
}

/// The API's message for a condition over many rows.
pub fn boundary_to_wire(boundary: Boundary) -> v1::Precondition {
    let Boundary { table, condition, unchanged_since } = boundary;
    v1::Precondition {
        table,
        check: Some(v1::precondition::Check::UnchangedSince(unchanged_since)),
        r#where: condition,
        ..v1::Precondition::default()
    }
}

fn invalid(message: &str) -> Error {
    Error::new(Reason::ArgumentInvalid, message)
}
