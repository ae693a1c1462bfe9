//! What the readers accept, what they refuse, and in which words.

mod checkpoint;
mod config;
mod folder;
mod overlap;
mod shard;
mod ties;
mod tokenizer;
mod tokens;
mod weights;

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tiepack::error::Error;

/// An error as the command line prints it.
fn told(error: &Error) -> String {
    match &error.hint {
        Some(hint) => format!("error: {error}\nhint: {hint}"),
        None => format!("error: {error}"),
    }
}

/// A temporary folder with files in it; what it refuses is told without its random name.
struct Folder(TempDir);

impl Folder {
    fn new(files: &[(&str, &[u8])]) -> Folder {
        let folder = Folder(tempfile::tempdir().expect("a temporary folder"));
        for (name, bytes) in files {
            std::fs::write(folder.path(name), bytes).expect("a writable temporary folder");
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn told(&self, error: &Error) -> String {
        told(error).replace(&*self.root().to_string_lossy(), "FOLDER")
    }
}

/// The bytes of a `.safetensors` file with this header, whatever it claims, and this body.
fn safetensors(header: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// The bytes of a token shard.
fn shard_bytes(magic: i32, version: i32, count: i32, tokens: &[u16]) -> Vec<u8> {
    let mut header = [0i32; 256];
    header[..3].copy_from_slice(&[magic, version, count]);
    let mut bytes: Vec<u8> = header.iter().flat_map(|x| x.to_le_bytes()).collect();
    bytes.extend(tokens.iter().flat_map(|x| x.to_le_bytes()));
    bytes
}

/// A well-formed token shard.
fn good_shard(tokens: &[u16]) -> Vec<u8> {
    shard_bytes(20_240_520, 1, tokens.len() as i32, tokens)
}
