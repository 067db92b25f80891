//! What an examination has found, in the form in which the repair needs it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::format::head::{Header, TableEntry};
use crate::format::manifest::Manifest;
use crate::table::sound_layers::SoundLayers;

/// What is damaged, and what is known from the other files.
#[derive(Default)]
pub(super) struct Diagnosis {
    /// Whether `database.json` is missing or cannot be read.
    pub(super) is_database_damaged: bool,
    /// Whether HEAD is missing or has no valid header.
    pub(super) is_head_damaged: bool,
    /// Whether one copy of HEAD's header or a table entry is not valid, and the other copy is.
    pub(super) is_head_incomplete: bool,
    /// The header of HEAD, if it is valid.
    pub(super) header: Option<Header>,
    /// The valid table entries of HEAD, by table id.
    pub(super) table_entries: BTreeMap<u64, TableEntry>,
    /// The ids of the tables with a readable manifest.
    pub(super) tables_with_manifest: Vec<u64>,
    /// The names of the tables whose manifest is missing or cannot be read.
    pub(super) damaged_manifests: Vec<String>,
    /// The names of the tables with a damaged segment.
    pub(super) damaged_segments: Vec<String>,
    /// The tables with damaged snapshots or indexes.
    pub(super) damaged_layers: Vec<DamagedLayers>,
    /// Unused files.
    pub(super) leftovers: Vec<PathBuf>,
}

/// The layers of a table with at least one damaged layer.
pub(super) struct DamagedLayers {
    pub(super) manifest: Manifest,
    /// The layers without problems.
    /// A delta layer that does not end where the manifest says is not among them.
    pub(super) sound: SoundLayers,
}
