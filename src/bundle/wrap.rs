//! The files of a bundle: a script that Python runs, and its bytes inside or beside it.
//!
//! Python runs a zip file as a script, whatever its name, and lets anything stand before the zip: there are code and weights,
//! not a byte more than they take. Where the weights go into a file of their own, the script is plain text.

use std::io::{Cursor, Read, Write};

use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::contents::text;
use super::{Decoder, Script};
use crate::error::{Error, Result};

/// The file with the weights, beside a script that says so.
pub const BLOB_NAME: &str = "weights.bin";

/// What a bundle that imports its decoder needs, as pip writes it.
pub const REQUIREMENT: &str = concat!("tiepack==", env!("CARGO_PKG_VERSION"));

/// What the first lines of every bundle do with bytes that are not its own; nobody else's script says this.
const DAMAGED: &str = "sys.exit(p+\" is damaged: wrong hash\")";

/// Whether a file is a bundle, by its first or its last bytes: its own lines stand at one of the ends.
pub fn is_bundle(end: &[u8]) -> bool {
    end.windows(DAMAGED.len()).any(|at| at == DAMAGED.as_bytes())
}

/// The hash by which a bundle knows its bytes.
///
/// # Errors
/// The bytes cannot be read.
pub fn hash_of(mut bytes: impl Read) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    std::io::copy(&mut bytes, &mut hash)?;
    Ok(hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect())
}

/// What is to be written.
pub struct Files {
    pub script: Vec<u8>,
    /// [`BLOB_NAME`], if the weights are apart.
    pub blob: Option<Vec<u8>>,
    /// requirements.txt, if the decoder is imported.
    pub requirements: Option<String>,
}

impl Files {
    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        let blob = self.blob.as_ref().map_or(0, Vec::len);
        (self.script.len() + blob + self.requirements.as_ref().map_or(0, String::len)) as u64
    }
}

pub(super) fn wrap(script: &Script, code: &[u8], weights: &[u8]) -> Result<Files> {
    let requirements = (script.decoder == Decoder::Import).then(|| format!("{REQUIREMENT}\n"));
    if script.apart {
        let read = format!("os.path.join(os.path.dirname(__file__),\"{BLOB_NAME}\")");
        let code = base85(code);
        let start = start(script, "base64,os,", &read, &format!("base64.b85decode(\"{code}\")"), weights, "d");
        return Ok(Files { script: start.into_bytes(), blob: Some(weights.to_vec()), requirements });
    }
    let mut bytes = [code, weights].concat();
    let n = code.len();
    let start = start(script, "", "__file__[:-12]", &format!("d[:{n}]"), &bytes, &format!("d[{n}:]"));
    bytes.extend(zipped(&start)?);
    Ok(Files { script: bytes, blob: None, requirements })
}

/// What runs first: reads the bytes, checks them, hands them on.
fn start(script: &Script, modules: &str, path: &str, code: &str, bytes: &[u8], weights: &str) -> String {
    let (n, name) = (bytes.len(), text(script.name));
    let hash: String = Sha256::digest(bytes).iter().take(8).map(|b| format!("{b:02x}")).collect();
    let check =
        format!("p={path}\nd=open(p,\"rb\").read({n})\nif hashlib.sha256(d).hexdigest()[:16]!=\"{hash}\":{DAMAGED}\n");
    match script.decoder {
        Decoder::Import => format!(
            "import {modules}hashlib,lzma,sys,tiepack\n{check}tiepack._run_bundle(lzma.decompress({code}).decode(),{name},{weights},globals())\n"
        ),
        Decoder::Embed => format!(
            "import {modules}hashlib,lzma,sys\n{check}x=lzma.decompress({code}).split(b\"\\0\",3)\n\
             exec(x[0],dict(x=x,d={weights},g=globals()))\n"
        ),
    }
}

fn zipped(start: &str) -> Result<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let written = zip.start_file("__main__.py", options).map_err(std::io::Error::from);
    let written = written.and_then(|()| zip.write_all(start.as_bytes())).and_then(|()| Ok(zip.finish()?));
    written.map(Cursor::into_inner).map_err(|e| Error::compute(format!("cannot write the bundle: {e}")))
}

/// As Python's `base64.b85encode`.
fn base85(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 85] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
    let mut out = String::new();
    for chunk in bytes.chunks(4) {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        let mut number = u32::from_be_bytes(word);
        let mut digits = [0; 5];
        for digit in digits.iter_mut().rev() {
            *digit = DIGITS[(number % 85) as usize];
            number /= 85;
        }
        out.extend(digits[..chunk.len() + 1].iter().map(|d| char::from(*d)));
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn base85_is_that_of_python() {
        assert_eq!(super::base85(b"tiepack, and a bit more"), "bZKR9VPk77AYpD~AYmY4X>=fMZ*pY");
    }
}
