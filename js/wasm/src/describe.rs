//! What a file says of itself, as JSON: all that JavaScript learns of it but the values.

use std::fmt::Write;

use tiepack_format::container::codec;
use tiepack_format::{Artifact, Dtype, Error, Form, KeptEntry};

/// A string with quotes around it.
fn text(out: &mut String, value: &str) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn list<T>(out: &mut String, items: impl IntoIterator<Item = T>, mut one: impl FnMut(&mut String, T)) {
    out.push('[');
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        one(out, item);
    }
    out.push(']');
}

fn number(out: &mut String, value: u64) {
    let _ = write!(out, "{value}");
}

pub fn error(error: &Error) -> String {
    let mut out = String::from("{\"error\":");
    text(&mut out, &error.message);
    if let Some(hint) = &error.hint {
        out.push_str(",\"hint\":");
        text(&mut out, hint);
    }
    out.push('}');
    out
}

/// `size`: bytes of the file.
pub fn artifact(artifact: &Artifact, size: usize) -> String {
    let header = artifact.header();
    let mut out = String::from("{\"config\":");
    text(&mut out, &header.config);
    out.push_str(",\"bytes\":");
    number(&mut out, size as u64);
    out.push_str(",\"root\":\"");
    for byte in artifact.parsed.root {
        let _ = write!(out, "{byte:02x}");
    }
    out.push_str("\",\"tensors\":");
    let weights = header.labels().map(|(name, at)| {
        let form = match header.names[at].form {
            Form::Matrix => "matrix",
            Form::Embedding => "embedding",
            Form::Vector => "vector",
        };
        (name, form, &header.names[at].shape, header.source[at] as usize)
    });
    let stored = artifact.tensors.len();
    let kept = header.extra.kept.iter().enumerate().map(|(i, kept)| (&kept.name[..], "kept", &kept.shape, stored + i));
    list(&mut out, weights.chain(kept), |out, (name, form, shape, stored)| {
        out.push_str("{\"name\":");
        text(out, name);
        out.push_str(",\"form\":\"");
        out.push_str(form);
        out.push_str("\",\"shape\":");
        list(out, shape, |out, d| number(out, *d as u64));
        out.push_str(",\"stored\":");
        number(out, stored as u64);
        out.push('}');
    });
    out.push_str(",\"streams\":");
    list(&mut out, all_streams(artifact), |out, stream| {
        out.push_str("{\"kind\":\"");
        out.push_str(stream.kind);
        out.push_str("\",\"bytes\":");
        number(out, stream.bytes);
        out.push_str(",\"tensors\":");
        list(out, stream.tensors, |out, t| number(out, u64::from(t)));
        out.push_str(",\"types\":");
        list(out, stream.types, text);
        out.push_str(",\"needs\":");
        list(out, stream.needs, |out, t| number(out, u64::from(*t)));
        out.push('}');
    });
    out.push('}');
    out
}

/// What `index.d.ts` calls a stream.
struct Stream<'a> {
    kind: &'static str,
    bytes: u64,
    tensors: Vec<u32>,
    types: Vec<&'static str>,
    needs: &'a [u32],
}

/// The streams of the weights, then those of the kept tensors, which are numbered after the stored ones.
fn all_streams(artifact: &Artifact) -> Vec<Stream<'_>> {
    let header = artifact.header();
    let weights = header.streams.iter().map(|stream| Stream {
        kind: match stream.codec {
            codec::LOSSLESS => "exact",
            codec::MATRIX => "matrix",
            codec::VECTORS => "vectors",
            codec::ZERO => "zeros",
            _ => "sum",
        },
        bytes: stream.len,
        tensors: stream.tensors.clone(),
        types: stream.dtypes.iter().map(|dtype| name(*dtype)).collect(),
        needs: &stream.needs,
    });
    let mut next = artifact.tensors.len() as u32;
    let kept = header.extra.streams().zip(&header.extra.lengths).map(|(run, bytes)| {
        let first = next;
        next += run.len() as u32;
        let types = run.iter().map(KeptEntry::element_name).collect();
        Stream { kind: "kept", bytes: *bytes, tensors: (first..next).collect(), types, needs: &[] }
    });
    weights.chain(kept).collect()
}

fn name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "f32",
        Dtype::F16 => "f16",
        Dtype::Bf16 => "bf16",
    }
}
