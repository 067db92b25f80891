//! DriftQL: text to statements, statements to answers.

pub mod ast;
mod display;
pub mod lexer;
mod like;
pub mod parser;
pub mod plan;
pub mod predicate;
pub mod report;
pub mod script;
