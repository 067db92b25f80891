//! DriftQL: text to statements, statements to answers.

pub mod ast;
mod display;
pub mod lexer;
pub mod parser;
pub mod report;
