//! What a file says of itself, as JSON: all that JavaScript learns of it but the values.

use std::fmt::Write;

use tiepack_format::container::codec;
use tiepack_format::{Artifact, Dtype, Error, Form};

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
    list(&mut out, header.names.iter().zip(&header.source), |out, (named, stored)| {
        out.push_str("{\"name\":");
        text(out, &named.name);
        out.push_str(",\"form\":\"");
        out.push_str(match named.form {
            Form::Matrix => "matrix",
            Form::Embedding => "embedding",
            Form::Vector => "vector",
        });
        out.push_str("\",\"shape\":");
        list(out, &named.shape, |out, d| number(out, *d as u64));
        out.push_str(",\"stored\":");
        number(out, u64::from(*stored));
        out.push('}');
    });
    out.push_str(",\"streams\":");
    list(&mut out, &header.streams, |out, stream| {
        out.push_str("{\"kind\":\"");
        out.push_str(match stream.codec {
            codec::LOSSLESS => "exact",
            codec::MATRIX => "matrix",
            codec::VECTORS => "vectors",
            codec::ZERO => "zeros",
            _ => "sum",
        });
        out.push_str("\",\"bytes\":");
        number(out, stream.len);
        out.push_str(",\"tensors\":");
        list(out, &stream.tensors, |out, t| number(out, u64::from(*t)));
        out.push_str(",\"types\":");
        list(out, &stream.dtypes, |out, dtype| {
            text(
                out,
                match dtype {
                    Dtype::F32 => "f32",
                    Dtype::F16 => "f16",
                    Dtype::Bf16 => "bf16",
                },
            );
        });
        out.push_str(",\"needs\":");
        list(out, &stream.needs, |out, t| number(out, u64::from(*t)));
        out.push('}');
    });
    out.push('}');
    out
}
