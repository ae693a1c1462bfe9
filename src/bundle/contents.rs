//! What the small decoder must know of an artifact's header, as Python.

use std::fmt::Write;

use crate::artifact::layout::Header;
use crate::model::Dtype;

/// A stream as the small decoder knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub codec: u8,
    pub tensors: Vec<u32>,
    /// Element types as the format numbers them; of lossless streams only.
    pub types: Vec<u8>,
    pub needs: Vec<u32>,
    pub len: u64,
}

/// What of a header is needed to decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    pub entries: Vec<Entry>,
    /// Of the stored tensors.
    pub shapes: Vec<Vec<usize>>,
    /// Every name with the stored tensor it stands for.
    pub names: Vec<(String, u32)>,
    /// Names are left out; tensors come in their alphabetical order.
    pub nameless: bool,
}

impl Contents {
    /// Of an artifact.
    pub fn new(header: &Header, nameless: bool) -> Contents {
        let mut shapes = vec![Vec::new(); header.stored()];
        for (named, source) in header.names.iter().zip(&header.source) {
            shapes[*source as usize].clone_from(&named.shape);
        }
        let number = |dtype: &Dtype| match dtype {
            Dtype::F32 => 0,
            Dtype::F16 => 1,
            Dtype::Bf16 => 2,
        };
        let entry = |s: &crate::artifact::layout::StreamEntry| Entry {
            codec: s.codec,
            tensors: s.tensors.clone(),
            types: if s.codec == 0 { s.dtypes.iter().map(number).collect() } else { Vec::new() },
            needs: s.needs.clone(),
            len: s.len,
        };
        let names = header.names.iter().zip(&header.source).map(|(named, source)| (named.name.clone(), *source));
        Contents { entries: header.streams.iter().map(entry).collect(), shapes, names: names.collect(), nameless }
    }

    /// ENTRIES, SHAPES, NAMES and NAME, which run.py uses.
    pub(super) fn python(&self, script: &str) -> String {
        let list = |numbers: &[u32]| numbers.iter().map(|n| format!("{n},")).collect::<String>();
        let mut out = String::from("ENTRIES=[");
        for Entry { codec, tensors, types, needs, len } in &self.entries {
            let types: Vec<u32> = types.iter().map(|t| u32::from(*t)).collect();
            let _ = write!(out, "({codec},[{}],[{}],[{}],{len}),", list(tensors), list(&types), list(needs));
        }
        out.push_str("]\nSHAPES=[");
        for shape in &self.shapes {
            let shape: Vec<u32> = shape.iter().map(|d| *d as u32).collect();
            let _ = write!(out, "({}),", list(&shape));
        }
        out.push_str("]\nNAMES=");
        if self.nameless {
            let mut names: Vec<&(String, u32)> = self.names.iter().collect();
            names.sort();
            let order: Vec<u32> = names.iter().map(|(_, t)| *t).collect();
            let _ = write!(out, "[{}]", list(&order));
        } else {
            out.push('{');
            for (name, t) in &self.names {
                let _ = write!(out, "{}:{t},", text(name));
            }
            out.push('}');
        }
        let _ = writeln!(out, "\nNAME={}", text(script));
        out
    }
}

/// A string in quotes: what is one in JSON is one in Python.
pub(super) fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
