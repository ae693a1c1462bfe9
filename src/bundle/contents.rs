//! The facts of an artifact's header that the small decoder needs, as Python.

use std::fmt::Display;

use crate::artifact::layout::{Header, StreamEntry, codec};
use crate::model::Dtype;

/// The part of a header that decoding needs. Tensors are numbered in the order in which the streams have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    pub entries: Vec<StreamEntry>,
    /// Of the stored tensors.
    pub shapes: Vec<Vec<usize>>,
    /// Every name with the stored tensor it stands for: in the order of the tensors, which takes fewer bytes, or where names are
    /// left out in alphabetical order.
    pub names: Vec<(String, usize)>,
    /// Names are left out; tensors come in their alphabetical order.
    pub nameless: bool,
}

impl Contents {
    /// Of an artifact.
    pub fn new(header: &Header, nameless: bool) -> Contents {
        let order: Vec<u32> = header.streams.iter().flat_map(|stream| stream.tensors.iter().copied()).collect();
        let mut number = vec![0; header.stored()];
        for (new, old) in order.iter().enumerate() {
            number[*old as usize] = new;
        }
        let mut shapes = vec![Vec::new(); order.len()];
        for (named, source) in header.names.iter().zip(&header.source) {
            shapes[number[*source as usize]].clone_from(&named.shape);
        }
        let renumbered = |tensors: &[u32]| tensors.iter().map(|old| number[*old as usize] as u32).collect();
        let entry = |s: &StreamEntry| StreamEntry {
            tensors: renumbered(&s.tensors),
            needs: renumbered(&s.needs),
            dtypes: s.dtypes.clone(),
            ..*s
        };
        let named = header.names.iter().zip(&header.source);
        let mut names: Vec<_> = named.map(|(named, source)| (named.name.clone(), number[*source as usize])).collect();
        if !header.extra.labels.is_empty() {
            let label =
                |(label, tensor): &(String, u32)| (label.clone(), number[header.source[*tensor as usize] as usize]);
            names = header.extra.labels.iter().map(label).collect();
        }
        names.sort();
        if !nameless {
            names.sort_by_key(|(_, t)| *t);
        }
        Contents { entries: header.streams.iter().map(entry).collect(), shapes, names, nameless }
    }

    /// ENTRIES, SHAPES, ORDER, NAMES and NAME, which run.py uses, and the module that it is for worker processes. What is alike stands side by side, so that it compresses.
    pub(super) fn python(&self, script: &str) -> String {
        fn list<T: Display>(items: impl Iterator<Item = T>) -> String {
            format!("[{}]", items.map(|item| item.to_string()).collect::<Vec<_>>().join(","))
        }
        let of = |column: fn(&StreamEntry) -> i64| list(self.entries.iter().map(column));
        let columns = [
            of(|e| i64::from(e.codec)),
            of(|e| e.tensors.len() as i64),
            // Of lossless streams only, as the format numbers them.
            of(|e| match e.dtypes.first().filter(|_| e.codec == codec::LOSSLESS) {
                None | Some(Dtype::F32) => 0,
                Some(Dtype::F16) => 1,
                Some(Dtype::Bf16) => 2,
            }),
            of(|e| e.needs.first().map_or(-1, |need| i64::from(*need))),
            of(|e| e.len as i64),
        ];
        let shapes = list(self.shapes.iter().map(|shape| list(shape.iter())));
        // Differences: layer after layer they are the same.
        let numbers: Vec<i64> = [0].into_iter().chain(self.names.iter().map(|(_, t)| *t as i64)).collect();
        let order = list(numbers.windows(2).map(|pair| pair[1] - pair[0]));
        let names = list(self.names.iter().filter(|_| !self.nameless).map(|(name, _)| text(name)));
        format!(
            "__name__=\"tiepack\"\nENTRIES=[*zip({})]\nSHAPES={shapes}\nORDER={order}\nNAMES={names}\nNAME={}\n",
            columns.join(","),
            text(script)
        )
    }
}

/// A string in quotes: what is one in JSON is one in Python.
pub(super) fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
