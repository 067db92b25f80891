//! What examines a database: verification of a table's files, and the doctor, who also repairs.

pub mod doctor;
pub mod verification;
