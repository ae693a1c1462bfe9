//! A PyTorch checkpoint packs like the safetensors of the same model.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use serde_json::Value;
use zip::write::{SimpleFileOptions, ZipWriter};

use crate::{AMPLE, MODEL, copy, run};

fn text(text: &str) -> Vec<u8> {
    [&[0x8c, text.len() as u8], text.as_bytes()].concat()
}

fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [&b"("[..], &items.concat(), b"t"].concat()
}

fn integers(all: &[u64]) -> Vec<u8> {
    tuple(&all.iter().map(|n| [&[b'J'][..], &(*n as i32).to_le_bytes()].concat()).collect::<Vec<_>>())
}

/// The fixture as `torch.save({"model": compiled_ddp_model.state_dict(), "step": 3})` writes it: equal tensors are one
/// storage. The first matrix lies transposed. So many bytes more are an optimizer's.
fn checkpoint(optimizer: usize) -> Vec<u8> {
    let bytes = fs::read(Path::new(MODEL).join("model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let entries: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..header]).unwrap();
    let (mut storages, mut items): (Vec<Vec<u8>>, Vec<u8>) = (Vec::new(), Vec::new());
    for (name, entry) in entries.iter().filter(|(name, _)| *name != "__metadata__") {
        let numbers =
            |key: &str| entry[key].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect::<Vec<_>>();
        let (shape, range) = (numbers("shape"), numbers("data_offsets"));
        let mut data = bytes[header + range[0] as usize..header + range[1] as usize].to_vec();
        let (class, size) = if entry["dtype"] == "BF16" { ("BFloat16Storage", 2) } else { ("FloatStorage", 4) };
        let mut stride: Vec<u64> = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
        if name == "blocks.1.mlp.fc.weight" {
            let (rows, columns) = (shape[0] as usize, shape[1] as usize);
            let at = |i: usize| (i % rows * columns + i / rows) * size;
            data = (0..rows * columns).flat_map(|i| data[at(i)..at(i) + size].to_vec()).collect();
            stride = vec![1, shape[0]];
        }
        let index = storages.iter().position(|storage| *storage == data).unwrap_or(storages.len());
        let count = (data.len() / size) as i32;
        if index == storages.len() {
            storages.push(data);
        }
        let count = [&b"J"[..], &count.to_le_bytes()].concat();
        let class = format!("ctorch\n{class}\n").into_bytes();
        let storage = tuple(&[text("storage"), class, text(&index.to_string()), text("cpu"), count]);
        let storage = [&storage[..], b"Q"].concat();
        let hooks = b"ccollections\nOrderedDict\n)R".to_vec();
        let arguments = tuple(&[storage, b"K\x00".to_vec(), integers(&shape), integers(&stride), vec![0x89], hooks]);
        items.extend(text(&format!("module._orig_mod.{name}")));
        items.extend([b"ctorch._utils\n_rebuild_tensor_v2\n", &arguments[..], b"R"].concat());
    }
    let start = [&b"\x80\x02}("[..], &text("model"), b"ccollections\nOrderedDict\n)R("].concat();
    let pickle = [&start[..], &items, b"u", &text("step"), b"K\x03u."].concat();
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let mut entry = |name: String, content: &[u8]| {
        zip.start_file(format!("final/{name}"), SimpleFileOptions::DEFAULT).unwrap();
        zip.write_all(content).unwrap();
    };
    entry("data.pkl".into(), &pickle);
    storages.push(vec![1; optimizer]);
    storages.iter().enumerate().for_each(|(i, storage)| entry(format!("data/{i}"), storage));
    zip.finish().unwrap().into_inner()
}

#[test]
fn a_checkpoint_packs_like_the_safetensors() {
    let dir = copy(&["model.safetensors", "ties.json", "train_000.bin"]);
    fs::write(dir.path().join("final.pt"), checkpoint(0)).unwrap();
    let line = format!("pack {{}} -o {{}}/a.tiepack --cap {AMPLE} --lossless --val-rows 1");
    let said = run(&line, dir.path()).good().stdout;
    let notes: Vec<&str> = said.lines().filter(|line| line.starts_with("note: ")).collect();
    insta::assert_snapshot!(notes.join("\n"), @r"
    note: the weights are those under model; not read: step
    note: prefixes taken off the names of tensors: _orig_mod. (62), module. (62)
    note: matrices equal to others but not declared tied, stored once: 18
    ");
    // The ties are there without a tie map, and every tensor is the one of the safetensors.
    let line = format!("verify {{}}/a.tiepack --against {MODEL} --val {MODEL}/val_000.bin --val-rows 1 --json");
    let verdict = run(&line, dir.path()).good().json()["verdict"].clone();
    assert_eq!(verdict["against"]["identical"], verdict["against"]["tensors"]);
    // Verified against the checkpoint itself, the verdict says what was done to it.
    let line = "verify {}/a.tiepack --against {}/final.pt --val-rows 1";
    assert!(run(line, dir.path()).good().stdout.contains("note: prefixes taken off"));
}

#[test]
fn what_is_not_read_is_counted_apart_and_no_difference() {
    let dir = copy(&["model.safetensors"]);
    fs::write(dir.path().join("final.pt"), checkpoint(5_000_000)).unwrap();
    let seen = run("inspect {} --json", dir.path()).good().json();
    let bytes = |part: &str| {
        let rows = seen["rows"].as_array().unwrap().iter().filter(|row| row["part"] == part);
        rows.map(|row| row["bytes"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(bytes("not read"), 5_000_000);
    assert!((1..60_000).contains(&bytes("pickle and zip archive")), "{}", bytes("pickle and zip archive"));
    // The same weights in files of two kinds.
    let same = run("diff MODEL {} --exit-code", dir.path()).good();
    assert!(same.stdout.contains("no difference: 44 tensors and their types agree"), "{}", same.stdout);
}
