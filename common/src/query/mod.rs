//! DriftQL, the query language: parses statements, plans them, and runs SELECT.

pub mod ast;
pub mod change;
mod condition_columns;
pub mod deleted_row;
mod display;
pub mod exec;
pub mod in_list;
pub mod keywords;
pub mod lexer;
pub mod like;
pub mod local_clock;
pub mod location;
pub mod parser;
pub mod plan;
pub mod predicate;
pub mod report;
pub mod script;
