//! DriftQL: text to statements, statements to answers.
