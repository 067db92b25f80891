//! DriftQL: text to statements, statements to answers.

pub mod ast;
pub mod change;
mod display;
pub mod exec;
pub mod lexer;
mod like;
pub mod parser;
pub mod plan;
pub mod predicate;
pub mod report;
pub mod script;
