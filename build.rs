//! Compiles proto/ to Rust and to a descriptor set for reflection, with protox: no protoc to install.

use std::{env, error::Error, fs, path::PathBuf};

#[expect(clippy::disallowed_methods, reason = "a build script writes to OUT_DIR")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/driftdb");
    let files = ["types", "writer", "reader"].map(|name| format!("driftdb/v1/{name}.proto"));
    let descriptors = protox::Compiler::new(["proto"])?
        .include_imports(true)
        .include_source_info(true)
        .open_files(files)?
        .file_descriptor_set();
    let out = PathBuf::from(env::var("OUT_DIR")?).join("driftdb.v1.bin");
    let encoded = protox::Compiler::new(["proto"])?
        .include_imports(true)
        .open_files(["driftdb/v1/writer.proto", "driftdb/v1/reader.proto"])?
        .encode_file_descriptor_set();
    fs::write(out, encoded)?;
    tonic_prost_build::configure().bytes(".driftdb.v1").compile_fds(descriptors)?;
    Ok(())
}
