//! Rows as a Parquet file, in row groups: what memory holds is one group, and for each group that was written a few hundred bytes a column.

use std::collections::HashMap;
use std::sync::Arc;

use ::parquet::basic::{Compression, LogicalType, Repetition, Type as PhysicalType, ZstdLevel};
use ::parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::properties::{EnabledStatistics, WriterProperties};
use ::parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use ::parquet::schema::types::{Type, TypePtr};
use driftdb_common::error::{Error, Reason, Result};
use serde_json::value::RawValue;

use super::columns::text_of;
use super::parquet_columns::ParquetType;
use crate::render::JsonFields;

/// What a text takes besides its bytes: at least the object that holds it.
const TEXT_BYTES: usize = 64;
/// What each cell takes besides its value: whether it is null.
const LEVEL_BYTES: usize = 2;

/// A Parquet file in progress.
pub(super) struct ParquetFile {
    columns: Vec<ColumnChunk>,
    /// The position of each column.
    by_name: HashMap<String, usize>,
    writer: SerializedFileWriter<Vec<u8>>,
    /// The size at which a row group ends.
    group_bytes: usize,
    /// The size and number of the rows that are in no group yet.
    bytes: usize,
    rows: usize,
}

/// The cells of a column that are in no row group yet.
struct ColumnChunk {
    of: ParquetType,
    values: ChunkValues,
    /// For each row, 1 if it has a value and 0 if that is null.
    levels: Vec<i16>,
}

/// The values, nulls left out.
enum ChunkValues {
    Ints(Vec<i64>),
    Floats(Vec<f64>),
    Bools(Vec<bool>),
    Texts(Vec<ByteArray>),
}

impl ParquetFile {
    /// A file with these columns and no rows. A row group ends once its rows take `group_bytes`. `facts` are kept in the file.
    pub(super) fn new(
        types: Vec<(String, ParquetType)>,
        group_bytes: usize,
        facts: Vec<(String, String)>,
    ) -> Result<ParquetFile> {
        let fields = types.iter().map(|(name, of)| field(name, *of)).collect::<Result<Vec<_>>>()?;
        let schema = Type::group_type_builder("rows").with_fields(fields).build().map_err(failed)?;
        let facts = facts.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect();
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            // It grows with the file, in memory.
            .set_offset_index_disabled(true)
            .set_key_value_metadata(Some(facts))
            .set_created_by(format!("driftctl {}", env!("CARGO_PKG_VERSION")))
            .build();
        let writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties));
        let by_name = types.iter().enumerate().map(|(at, (name, _))| (name.clone(), at)).collect();
        Ok(ParquetFile {
            columns: types.into_iter().map(|(_, of)| ColumnChunk::new(of)).collect(),
            by_name,
            writer: writer.map_err(failed)?,
            group_bytes,
            bytes: 0,
            rows: 0,
        })
    }

    /// Adds a row.
    pub(super) fn add(&mut self, row: &JsonFields) -> Result<()> {
        for (name, value) in &row.0 {
            let at = self.by_name.get(name).copied();
            let Some(column) = at.and_then(|at| self.columns.get_mut(at)) else {
                return Err(internal(format!("field {name:?} was not there when the columns were read")));
            };
            self.bytes += column.add(value)?;
        }
        self.rows += 1;
        for column in &mut self.columns {
            column.levels.resize(self.rows, 0);
        }
        self.bytes += self.columns.len() * LEVEL_BYTES;
        Ok(())
    }

    /// Ends the row group if it is full, and returns the bytes of the file that are new.
    pub(super) fn take_full(&mut self) -> Result<Option<Vec<u8>>> {
        if self.bytes < self.group_bytes {
            return Ok(None);
        }
        self.end_group()?;
        self.writer.flush().map_err(|e| Error::io("cannot write Parquet", &e))?;
        Ok(Some(std::mem::take(self.writer.inner_mut())))
    }

    /// Ends the file, and returns the bytes that are left.
    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        if self.rows > 0 {
            self.end_group()?;
        }
        self.writer.into_inner().map_err(failed)
    }

    fn end_group(&mut self) -> Result<()> {
        let mut group = self.writer.next_row_group().map_err(failed)?;
        for column in &mut self.columns {
            let Some(mut writer) = group.next_column().map_err(failed)? else {
                return Err(internal("the file has fewer columns than the rows".to_owned()));
            };
            column.take_to(&mut writer).map_err(failed)?;
            writer.close().map_err(failed)?;
        }
        group.close().map_err(failed)?;
        (self.bytes, self.rows) = (0, 0);
        Ok(())
    }
}

impl ColumnChunk {
    fn new(of: ParquetType) -> ColumnChunk {
        let values = match of {
            ParquetType::Int | ParquetType::Unsigned => ChunkValues::Ints(Vec::new()),
            ParquetType::Float => ChunkValues::Floats(Vec::new()),
            ParquetType::Bool => ChunkValues::Bools(Vec::new()),
            ParquetType::Text | ParquetType::Json => ChunkValues::Texts(Vec::new()),
        };
        ColumnChunk { of, values, levels: Vec::new() }
    }

    /// Adds the value of a row. Returns what it takes in memory.
    fn add(&mut self, value: &RawValue) -> Result<usize> {
        let text = value.get();
        if text == "null" {
            self.levels.push(0);
            return Ok(0);
        }
        let changed = || {
            internal(format!("the value {text} does not have the type that its column had when it was read"))
        };
        let bytes = match &mut self.values {
            ChunkValues::Ints(values) => {
                let is_unsigned = self.of == ParquetType::Unsigned;
                let number = if is_unsigned { text.parse().map(u64::cast_signed) } else { text.parse() };
                values.push(number.map_err(|_| changed())?);
                size_of::<i64>()
            }
            ChunkValues::Floats(values) => {
                values.push(text.parse().map_err(|_| changed())?);
                size_of::<f64>()
            }
            ChunkValues::Bools(values) => {
                values.push(text.parse().map_err(|_| changed())?);
                size_of::<bool>()
            }
            ChunkValues::Texts(values) => {
                let text = if self.of == ParquetType::Text { text_of(value)? } else { text.to_owned() };
                let bytes = text.len() + TEXT_BYTES;
                values.push(ByteArray::from(text.into_bytes()));
                bytes
            }
        };
        self.levels.push(1);
        Ok(bytes)
    }

    /// Writes the cells, and gives their memory back.
    fn take_to(&mut self, writer: &mut SerializedColumnWriter<'_>) -> std::result::Result<(), ParquetError> {
        let ColumnChunk { values, levels, .. } = std::mem::replace(self, ColumnChunk::new(self.of));
        let levels = Some(levels.as_slice());
        match values {
            ChunkValues::Ints(values) => writer.typed::<Int64Type>().write_batch(&values, levels, None),
            ChunkValues::Floats(values) => writer.typed::<DoubleType>().write_batch(&values, levels, None),
            ChunkValues::Bools(values) => writer.typed::<BoolType>().write_batch(&values, levels, None),
            ChunkValues::Texts(values) => writer.typed::<ByteArrayType>().write_batch(&values, levels, None),
        }?;
        Ok(())
    }
}

/// A column of the schema.
fn field(name: &str, of: ParquetType) -> Result<TypePtr> {
    let (physical, logical) = match of {
        ParquetType::Int => (PhysicalType::INT64, None),
        ParquetType::Unsigned => (PhysicalType::INT64, Some(LogicalType::integer(64, false))),
        ParquetType::Float => (PhysicalType::DOUBLE, None),
        ParquetType::Bool => (PhysicalType::BOOLEAN, None),
        ParquetType::Text => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
        ParquetType::Json => (PhysicalType::BYTE_ARRAY, Some(LogicalType::Json)),
    };
    let builder = Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL);
    builder.with_logical_type(logical).build().map(Arc::new).map_err(failed)
}

fn failed(error: ParquetError) -> Error {
    internal(format!("cannot write Parquet: {error}"))
}

fn internal(message: String) -> Error {
    Error::new(Reason::Internal, message)
}

#[cfg(test)]
mod tests;
