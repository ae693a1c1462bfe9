//! Arrays of integers as `numpy.save` writes them, of one axis or of rows.

use super::numbers::Element;
use crate::error::{Error, Result};

pub const MAGIC: &[u8] = b"\x93NUMPY";

/// Where the integers begin, how they are written, and how many they are; `size` is the file's.
///
/// # Errors
/// A header that is damaged or not known, other elements than integers, more than two axes, or another length than the
/// shape says.
pub fn parse(head: &[u8], size: u64) -> Result<(u64, Element, usize)> {
    let damaged = || Error::input("a damaged .npy file: its header is cut off or not as numpy writes it");
    let (length, begin) = match head.get(6..8).ok_or_else(damaged)? {
        [1, 0] => (head.get(8..10).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]]))), 10),
        [2 | 3, 0] => (head.get(8..12).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize), 12),
        [major, minor] => {
            return Err(Error::input(format!("a .npy file of version {major}.{minor}, 1 to 3 are known")));
        }
        _ => return Err(damaged()),
    };
    let start = length.and_then(|length| length.checked_add(begin)).ok_or_else(damaged)?;
    let header = head.get(begin..start).and_then(|text| std::str::from_utf8(text).ok()).ok_or_else(damaged)?;
    let value = |key: &str| {
        let after = header.split_once(&format!("'{key}':"))?.1;
        Some(after.trim_start())
    };
    let descr = value("descr").ok_or_else(damaged)?;
    let descr = descr.strip_prefix('\'').and_then(|rest| rest.split_once('\'')).map(|(descr, _)| descr);
    let Some(element) = descr.and_then(element) else {
        let found = descr.map_or("records".into(), |descr| format!("elements {descr:?}"));
        let pickled = if descr == Some("|O") { ", which are pickled and never read" } else { "" };
        return Err(Error::input(format!("a .npy file of {found}{pickled}, wanted integers"))
            .hint("save token ids with numpy.save, as array.astype('uint32')"));
    };
    let shape = value("shape").and_then(|text| text.strip_prefix('(')).and_then(|text| text.split_once(')'));
    let axes: Option<Vec<u64>> = shape
        .map(|(axes, _)| axes.split(',').map(str::trim).filter(|axis| !axis.is_empty()))
        .and_then(|axes| axes.map(|axis| axis.parse().ok()).collect());
    let axes = axes.ok_or_else(damaged)?;
    if !(1..=2).contains(&axes.len()) {
        return Err(Error::input(format!("a .npy file of {} axes, wanted tokens or rows of tokens", axes.len())));
    }
    if axes.len() == 2 && value("fortran_order").is_some_and(|order| order.starts_with("True")) {
        return Err(Error::input("a .npy file of columns one after the other (fortran_order), wanted rows")
            .hint("save numpy.ascontiguousarray(array)"));
    }
    let count = axes.iter().try_fold(1u64, |product, axis| product.checked_mul(*axis));
    let body = size.saturating_sub(start as u64);
    match count.filter(|count| count.checked_mul(element.width as u64) == Some(body)) {
        Some(count) => Ok((start as u64, element, count as usize)),
        None => {
            let (held, shape) = (body / element.width as u64, axes.iter().map(u64::to_string).collect::<Vec<_>>());
            Err(Error::input(format!("the .npy header says {} tokens, the file holds {held}", shape.join(" × ")))
                .hint("the file is truncated or damaged"))
        }
    }
}

/// `<u2`, `|i1`, `>i8`.
fn element(descr: &str) -> Option<Element> {
    let (order, rest) = descr.split_at_checked(1)?;
    let (kind, width) = rest.split_at_checked(1)?;
    let width = match (width, order) {
        ("1", _) => 1,
        ("2", "<" | ">") => 2,
        ("4", "<" | ">") => 4,
        ("8", "<" | ">") => 8,
        _ => return None,
    };
    matches!(kind, "i" | "u").then_some(Element { width, signed: kind == "i", big_endian: order == ">" })
}
