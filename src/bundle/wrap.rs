//! The files of a bundle: a script that Python runs, and its bytes inside or beside it.
//!
//! Python runs a zip file as a script, whatever its name, and lets anything stand before the zip: there are code and weights,
//! not a byte more than they take. A script that opens its own file wants to find text there, which bytes as they are cannot be;
//! then they are a comment. Where the weights go into a file of their own, only the code is one.

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

/// Whether a script, by its first bytes, is a bundle whose weights are these: it knows them by their hash, that of its own
/// comment before them, or alone as version 0.2 wrote it.
///
/// # Errors
/// The weights cannot be read.
pub fn reads(script: &[u8], mut weights: impl Read) -> std::io::Result<bool> {
    let comment = script.windows(2).position(|at| at == b"\n#").map_or(&[][..], |at| &script[at + 2..]);
    let comment = comment.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let (mut alone, mut both) = (Sha256::new(), Sha256::new_with_prefix(comment));
    let mut piece = vec![0; 1 << 16];
    loop {
        match weights.read(&mut piece)? {
            0 => break,
            n => [&mut alone, &mut both].into_iter().for_each(|hash| hash.update(&piece[..n])),
        }
    }
    let names = |hash: Sha256| {
        let text = short(&hash.finalize());
        script.windows(text.len()).any(|at| at == text.as_bytes())
    };
    Ok(is_bundle(script) && (names(alone) || names(both)))
}

/// The part of a hash that a bundle keeps, in hexadecimal.
fn short(hash: &[u8]) -> String {
    hash.iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// The encoding of the bytes in a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Container {
    /// One file, as many bytes as they are; no text
    Zip,
    /// One file, which is text: seven bytes for six
    Text,
    /// A script that is text, and the weights beside it
    #[value(skip)]
    Apart,
}

/// The content to be written.
pub struct Files {
    pub script: Vec<u8>,
    /// [`BLOB_NAME`], if the weights are apart.
    pub blob: Option<Vec<u8>>,
    /// requirements.txt, if the decoder is imported.
    pub requirements: Option<String>,
    /// How many bytes of it make text of what is not.
    pub text: u64,
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
    let both = [code, weights].concat();
    if script.form == Container::Zip {
        // What Python sets for a script, and not what it sets for the main module of a package.
        let body = format!(
            "p=os.path.abspath(g[\"__file__\"][:-12])\ng.update(__file__=p,__cached__=None,__package__=None,__spec__=None)\n\
             if os.path.abspath(sys.path[0])==p:sys.path[0]=os.path.dirname(p)\n\
             with open(p,\"rb\")as f:d=f.read({})\n{}",
            both.len(),
            check("d", &both)
        );
        let bytes = [&both, &zipped(&start(script, "os,", &body, code.len()))?[..]].concat();
        return Ok(Files { script: bytes, blob: None, requirements, text: 0 });
    }
    let apart = script.form == Container::Apart;
    let held = if apart { code } else { &both };
    let comment = base116(held);
    // The only "#" that begins a line begins the comment.
    let mut body =
        format!("p=g[\"__file__\"]\nwith open(p,\"rb\")as f:k=f.read().split(b\"\\\\n#\",1)[1][:{}]\n", comment.len());
    match apart {
        true => {
            body += &format!(
                "with open(os.path.join(os.path.dirname(p),\"{BLOB_NAME}\"),\"rb\")as f:w=f.read({})\n{}",
                weights.len(),
                check("k+w", &[&comment, weights].concat())
            )
        }
        false => body += &check("k", &comment),
    }
    body += &format!(
        "a=np.frombuffer(k,\"u1\")\nt=np.zeros(256,\"q\")\nt[[*range(1,7),9,*range(16,26),*range(28,127)]]=range(116)\n\
         d=sum(t[a[i::7]]*116**i for i in range(7)).astype(\"<i8\").view(\"u1\").reshape(-1,8)[:,:6].tobytes()[:{}]{}\n",
        held.len(),
        if apart { "+w" } else { "" }
    );
    let start = start(script, if apart { "numpy as np,os," } else { "numpy as np," }, &body, code.len());
    let bytes = [start.as_bytes(), b"#", &comment, b"\n"].concat();
    let text = (comment.len() - held.len()) as u64;
    Ok(Files { script: bytes, blob: apart.then(|| weights.to_vec()), requirements, text })
}

/// What runs first: `body` finds the bytes `d`, of which the first are `code`. It leaves no name in the script's module.
fn start(script: &Script, modules: &str, body: &str, code: usize) -> String {
    match script.decoder {
        Decoder::Import => format!(
            "exec('''import {modules}hashlib,lzma,sys,tiepack\n{body}\
             tiepack._run_bundle(lzma.decompress(d[:{code}]),n,d[{code}:],g)''',{{\"g\":globals(),\"n\":{}}})\n",
            text(script.name)
        ),
        Decoder::Embed => format!(
            "exec('''import {modules}hashlib,lzma,sys\n{body}x=lzma.decompress(d[:{code}]).split(b\"\\\\0\",3)\n\
             exec(x[0],dict(x=x,d=d[{code}:],g=g))''',{{\"g\":globals()}})\n"
        ),
    }
}

/// Python that goes no further unless what it calls `name` is `bytes`.
fn check(name: &str, bytes: &[u8]) -> String {
    format!("if hashlib.sha256({name}).hexdigest()[:16]!=\"{}\":{DAMAGED}\n", short(&Sha256::digest(bytes)))
}

fn zipped(start: &str) -> Result<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let written = zip.start_file("__main__.py", options).map_err(std::io::Error::from);
    let written = written.and_then(|()| zip.write_all(start.as_bytes())).and_then(|()| Ok(zip.finish()?));
    written.map(Cursor::into_inner).map_err(|e| Error::compute(format!("cannot write the bundle: {e}")))
}

/// Six bytes, the lowest first, as seven digits of 116, the lowest first. 116 is the least that seven digits need, and leaves
/// twelve of ASCII's signs out: what ends a line or a text, and what a terminal would act upon.
fn base116(bytes: &[u8]) -> Vec<u8> {
    let signs: Vec<u8> = (1..7).chain([9]).chain(16..26).chain(28..127).collect();
    let mut out = Vec::with_capacity(bytes.len().div_ceil(6) * 7);
    for chunk in bytes.chunks(6) {
        let mut number = chunk.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        for _ in 0..7 {
            out.push(signs[(number % 116) as usize]);
            number /= 116;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn digits_of_116_hold_six_bytes_and_end_no_line() {
        let bytes: Vec<u8> = (0..=255).chain([255; 8]).collect();
        let text = super::base116(&bytes);
        assert_eq!(text.len(), 44 * 7);
        assert!(text.iter().all(|b| b.is_ascii() && !matches!(b, 0 | 7 | 8 | 10..=15 | 26 | 27 | 127)));
        let value = |b: u8| match b {
            0..7 => u64::from(b) - 1,
            9 => 6,
            16..26 => u64::from(b) - 9,
            _ => u64::from(b) - 11,
        };
        let back = text.chunks(7).flat_map(|digits| {
            let number = digits.iter().rev().fold(0, |number, b| number * 116 + value(*b));
            number.to_le_bytes()[..6].to_vec()
        });
        assert_eq!(back.collect::<Vec<u8>>(), bytes);
    }
}
