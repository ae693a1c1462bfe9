use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use insta::assert_snapshot;
use proptest::prelude::*;
use serde_json::Value;
use tiepack::ingest::weights::{parse, read};
use zip::write::{SimpleFileOptions, ZipWriter};

use crate::told;

const FOLDER: &str = "fixtures/checkpoints";

fn fixture(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// A checkpoint of this pickle and these storages.
fn checkpoint(pickle: &[u8], storages: &[&[u8]]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let mut entry = |name: &str, content: &[u8]| {
        zip.start_file(format!("a/{name}"), SimpleFileOptions::DEFAULT).unwrap();
        zip.write_all(content).unwrap();
    };
    entry("data.pkl", pickle);
    entry("byteorder", b"little");
    for (i, storage) in storages.iter().enumerate() {
        entry(&format!("data/{i}"), storage);
    }
    zip.finish().unwrap().into_inner()
}

fn text(text: &str) -> Vec<u8> {
    [&[0x8c, text.len() as u8], text.as_bytes()].concat()
}

fn integer(n: i32) -> Vec<u8> {
    [&[b'J'][..], &n.to_le_bytes()].concat()
}

fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [&b"("[..], &items.concat(), b"t"].concat()
}

/// A tensor of f32 over storage 0 of `stored` elements.
fn tensor(stored: i32, offset: i32, shape: &[i32], stride: &[i32]) -> Vec<u8> {
    let storage =
        tuple(&[text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text("0"), text("cpu"), integer(stored)]);
    let numbers = |all: &[i32]| tuple(&all.iter().map(|n| integer(*n)).collect::<Vec<_>>());
    let arguments = tuple(&[
        [&storage[..], b"Q"].concat(),
        integer(offset),
        numbers(shape),
        numbers(stride),
        vec![0x89],
        b"ccollections\nOrderedDict\n)R".to_vec(),
    ]);
    [b"ctorch._utils\n_rebuild_tensor_v2\n", &arguments[..], b"R"].concat()
}

/// A pickled dict.
fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = entries.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [&b"\x80\x02}("[..], &items, b"u."].concat()
}

fn refused(bytes: &[u8]) -> String {
    told(&parse(bytes).unwrap_err())
}

#[test]
fn tensors_are_those_that_pytorch_has() {
    let expected: Value = serde_json::from_str(&std::fs::read_to_string(fixture("expected.json")).unwrap()).unwrap();
    let files = expected.as_object().unwrap();
    assert_eq!(files.len(), 8);
    let mut remarks = Vec::new();
    for (file, tensors) in files {
        let found = read(&fixture(file)).unwrap();
        let tensors = tensors.as_object().unwrap();
        assert_eq!(found.tensors.len(), tensors.len(), "{file}: {:?}", found.tensors.keys());
        for (name, wanted) in tensors {
            let tensor = found.tensors.get(name).unwrap_or_else(|| panic!("{file} has no {name}"));
            let shape: Vec<u64> = tensor.shape.iter().map(|n| *n as u64).collect();
            assert_eq!(Value::from(shape), wanted["shape"], "{file}: {name}");
            let values = wanted["values"].as_array().unwrap();
            assert_eq!(tensor.data.len(), values.len(), "{file}: {name}");
            for (x, wanted) in tensor.data.iter().zip(values) {
                assert_eq!(*x, wanted.as_f64().unwrap() as f32, "{file}: {name}");
            }
        }
        remarks.extend(found.remarks.iter().map(|remark| format!("{file}: {}\n  {}", remark.message(), remark.hint())));
    }
    assert_snapshot!(remarks.join("\n"));
}

#[test]
fn shards_behind_an_index_are_read_whole() {
    let index =
        |to: &str| format!(r#"{{"weight_map": {{"block": "views.bin", "w": "{to}", "step": "{to}"}}}}"#).into_bytes();
    let views = checkpoint(&dict(&[("block", tensor(4, 0, &[2], &[2]))]), &[&[0; 16]]);
    let rest = checkpoint(&dict(&[("w", tensor(4, 0, &[4], &[1])), ("step", integer(3))]), &[&[0; 16]]);
    let files: [(&str, &[u8]); 3] =
        [("pytorch_model.bin.index.json", &index("rest.bin")), ("views.bin", &views), ("rest.bin", &rest)];
    let folder = crate::Folder::new(&files);
    let found = read(&folder.path(files[0].0)).unwrap();
    assert_eq!(found.tensors.keys().collect::<Vec<_>>(), ["block", "w"]);
    assert_eq!(found.remarks[0].dropped("step"), Some("an integer"));
}

#[test]
fn code_is_named_and_not_run() {
    let told = ["code.pt", "module.pt", "script.pt", "legacy.pt"].map(|file| told(&read(&fixture(file)).unwrap_err()));
    assert_snapshot!(told.join("\n"));
}

#[test]
fn tensors_that_are_not_plain_are_called_what_they_are() {
    let kinds = ["sparse.pt", "meta.pt", "quantized.pt", "exotic.pt", "distributed.pt", "module_inside.pt"];
    let told = kinds.map(|file| told(&read(&fixture(file)).unwrap_err()));
    assert_snapshot!(told.join("\n"));
}

#[test]
fn what_has_no_checksum_is_read_and_what_has_one_is_held_against_it() {
    let mut bytes = std::fs::read(fixture("unchecked.pt")).unwrap();
    let before = parse(&bytes).unwrap().tensors["7"].data.clone();
    let at = bytes.windows(4).position(|window| *window == before[0].to_le_bytes()).unwrap();
    bytes[at] ^= 1;
    assert_ne!(*parse(&bytes).unwrap().tensors["7"].data, *before);
    let mut bytes = std::fs::read(fixture("tree.pt")).unwrap();
    let at = bytes.windows(4).position(|window| *window == before[0].to_le_bytes()).unwrap();
    bytes[at] ^= 1;
    assert!(refused(&bytes).contains("is damaged: Invalid checksum"), "{}", refused(&bytes));
}

/// Entries of any value under any key.
fn tree(entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = entries.iter().flat_map(|(key, value)| [&key[..], value].concat()).collect();
    [&b"}("[..], &items, b"u"].concat()
}

fn list(items: &[Vec<u8>]) -> Vec<u8> {
    [&b"]("[..], &items.concat(), b"e"].concat()
}

/// What is read of a checkpoint whose pickle is this value, over a storage of four weights.
fn of(value: &[u8]) -> String {
    match parse(&checkpoint(&[b"\x80\x02", value, b"."].concat(), &[&[0; 16]])) {
        Ok(weights) => {
            let remarks: Vec<String> = weights.remarks.iter().map(|remark| remark.message()).collect();
            format!("{:?} {remarks:?}", weights.tensors.keys().collect::<Vec<_>>())
        }
        Err(error) => told(&error),
    }
}

#[test]
fn no_tensor_of_a_tree_is_lost_in_silence() {
    let w = || tensor(4, 0, &[4], &[1]);
    let state = || tree(&[(text("w"), w())]);
    let adam = || tree(&[(text("state"), tree(&[(integer(0), state())])), (text("param_groups"), list(&[]))]);
    let space = |attributes: Vec<u8>| [&b"ctypes\nSimpleNamespace\n)R"[..], &attributes, b"b"].concat();
    let ordered = |beside: Vec<u8>| [&b"ccollections\nOrderedDict\n)R"[..], &beside, b"b"].concat();
    let mut nest = state();
    (0..40).for_each(|_| nest = list(&[nest.clone()]));
    let all = [
        // The model has parts, as nobody but a module's own code names them otherwise.
        tree(&[(text("model"), tree(&[(text("encoder"), state()), (text("7"), w()), (integer(8), w())]))]),
        tree(&[(text("model"), tree(&[(text("net"), state()), (text("head"), state())])), (text("epoch"), integer(1))]),
        tree(&[(text("model"), tree(&[(text("state_dict"), state()), (text("optimizer"), adam())]))]),
        tree(&[
            (text("w"), w()),
            (text("blocks"), list(&[w(), state()])),
            (text("opt"), adam()),
            (text("n"), integer(1)),
        ]),
        tree(&[(text("w"), w()), (text("rng_state"), tree(&[(text("cuda"), w())]))]),
        // Optimizers by what they hold, whatever their names.
        tree(&[(text("generator"), state()), (text("ascent"), adam()), (text("all"), list(&[adam(), adam()]))]),
        tree(&[(text("optimizer"), adam())]),
        // All that holds tensors is named, however much else there is.
        tree(&[
            (text("model"), state()),
            (text("a"), integer(1)),
            (text("ema"), state()),
            (text("m"), state()),
            (text("n"), list(&[w(), state()])),
            (text("z"), state()),
        ]),
        // Refused with what would be lost.
        tree(&[(text("encoder"), state()), (text("decoder"), tree(&[(text("a"), w()), (text("b"), list(&[w()]))]))]),
        tree(&[(text("model"), tree(&[(tuple(&[integer(1)]), w()), (text("w"), w())]))]),
        tree(&[(text("model"), tree(&[(integer(7), w()), (text("7"), w())]))]),
        tree(&[(text("model"), tree(&[(text("a.b"), w()), (text("a"), tree(&[(text("b"), w())]))]))]),
        tree(&[(text("model"), tree(&[(text("w"), w()), (text("rest"), space(state()))]))]),
        tree(&[(text("model"), ordered(state())), (text("w"), w())]),
        tree(&[(text("model"), tree(&[(text("w"), w()), (text("deep"), nest)]))]),
        list(&[state()]),
    ];
    assert_snapshot!(all.map(|value| of(&value)).join("\n"));
}

#[test]
fn a_pickle_that_refers_to_itself_costs_no_more_than_a_model() {
    let w = tensor(4, 0, &[4], &[1]);
    // A dict that holds itself twice, beside a tensor: paths without end.
    let endless = [&b"}q\x00("[..], &text("a"), b"h\x00", &text("b"), b"h\x00", &text("w"), &w, b"u"].concat();
    // A dict of two that are one, sixty times over: 2^60 names of one tensor.
    let mut doubling = tree(&[(text("w"), w)]);
    for _ in 0..30 {
        doubling = [&doubling[..], b"q\x000}(", &text("a"), b"h\x00", &text("b"), b"h\x00u"].concat();
    }
    let long = text(&"n".repeat(250));
    let mut names = tree(&[(long.clone(), tensor(4, 0, &[4], &[1]))]);
    for _ in 0..30 {
        names = [&names[..], b"q\x000}(", &long, b"h\x00", &text("b"), b"h\x00u"].concat();
    }
    for value in [endless, doubling, names] {
        let told = of(&tree(&[(text("model"), value)]));
        assert!(told.contains("a model has at most 16384") || told.contains("nested more than 32 deep"), "{told}");
    }
}

#[test]
fn long_lists_beside_the_model_are_read_past() {
    let floats = list(&[[&b"G"[..], &0.5f64.to_be_bytes()].concat().repeat(3_000_000)]);
    let steps = list(&[integer(7).repeat(2_000_000)]);
    let state = tree(&[(text("w"), tensor(4, 0, &[4], &[1]))]);
    let value = tree(&[(text("model"), state), (text("losses"), floats), (text("steps"), steps)]);
    assert_snapshot!(of(&value), @r#"["w"] ["the weights are those under model; not read: losses, steps"]"#);
}

#[test]
fn a_shape_that_no_file_holds_is_refused_though_it_is_empty() {
    // 2^62 times 2^62 times nothing.
    let huge = b"\x8a\x08\0\0\0\0\0\0\0\x40".to_vec();
    let storage = tuple(&[text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text("0"), text("cpu"), integer(4)]);
    let shape = tuple(&[integer(0), huge.clone(), huge]);
    let strides = tuple(&[integer(1), integer(1), integer(1)]);
    let arguments = tuple(&[[&storage[..], b"Q"].concat(), integer(0), shape, strides]);
    let w = [b"ctorch._utils\n_rebuild_tensor_v2\n", &arguments[..], b"R"].concat();
    assert_snapshot!(of(&tree(&[(text("w"), w)])), @"error: w has shape [0, 4611686018427387904, 4611686018427387904], which no file holds");
}

#[test]
fn a_tensor_shared_under_two_names_is_held_once() {
    let one = tensor(4, 0, &[2, 2], &[2, 1]);
    let bytes = checkpoint(&dict(&[("a", one.clone()), ("b", one)]), &[&[0; 16]]);
    let tensors = parse(&bytes).unwrap().tensors;
    assert!(std::sync::Arc::ptr_eq(&tensors["a"].data, &tensors["b"].data));
}

#[test]
fn the_model_is_found_or_the_choice_is_named() {
    let w = || tensor(4, 0, &[4], &[1]);
    let inner = |entries: &[(&str, Vec<u8>)]| {
        let whole = dict(entries);
        whole[2..whole.len() - 1].to_vec()
    };
    let of = |entries: &[(&str, Vec<u8>)]| match parse(&checkpoint(&dict(entries), &[&[0; 16]])) {
        Ok(weights) => {
            let remarks: Vec<String> = weights.remarks.iter().map(|remark| remark.message()).collect();
            format!("{:?} {remarks:?}", weights.tensors.keys().collect::<Vec<_>>())
        }
        Err(error) => told(&error),
    };
    let state = || inner(&[("w", w())]);
    assert_snapshot!(
        [
            of(&[("w", w()), ("step", integer(3))]),
            of(&[("model", state()), ("ema", state()), ("step", integer(3))]),
            of(&[("checkpoint", inner(&[("state_dict", state()), ("epoch", integer(3))]))]),
            of(&[("generator", state()), ("step", integer(3))]),
            of(&[("generator", state()), ("critic", state())]),
            of(&[("step", integer(3))]),
        ]
        .join("\n")
    );
}

#[test]
fn hostile_checkpoints_are_refused_at_no_cost() {
    let pickled = |pickle: &[u8]| refused(&checkpoint(pickle, &[&[0; 16]]));
    let view = |tensor: Vec<u8>| pickled(&dict(&[("w", tensor)]));
    let nested = |depth: usize| [&b"\x80\x02)"[..], &vec![0x85; depth], b"."].concat();
    // Doubles a tuple by reference: 2^200 values, if references were copies.
    let doubling = {
        let mut bytes = b"\x80\x02)q\x00".to_vec();
        (0..200).for_each(|_| bytes.extend(b"h\x00\x86q\x00".iter().chain(b"h\x00")));
        bytes.extend(b".");
        bytes
    };
    let mut squeezed = checkpoint(&dict(&[("w", tensor(4, 0, &[4], &[1]))]), &[&[0; 16]]);
    // The method in the central directory's entry of data/0, 10 bytes into it: deflate.
    let at = squeezed.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    squeezed[at + 10] = 8;
    let mut claiming = squeezed.clone();
    claiming[at + 10] = 0;
    claiming[at + 24..at + 28].copy_from_slice(&u32::MAX.to_le_bytes());
    claiming[at + 20..at + 24].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut overlapping = ZipWriter::new(Cursor::new(Vec::new()));
    overlapping.start_file("a/data.pkl", SimpleFileOptions::DEFAULT).unwrap();
    overlapping.write_all(&vec![b'N'; 5000]).unwrap();
    overlapping.shallow_copy_file("a/data.pkl", "a/data/0").unwrap();
    overlapping.shallow_copy_file("a/data.pkl", "a/data/1").unwrap();
    let overlapping = overlapping.finish().unwrap().into_inner();
    let many: Vec<(String, Vec<u8>)> = (0..40).map(|i| (format!("{i}"), tensor(4096, i, &[4000], &[1]))).collect();
    let many: Vec<(&str, Vec<u8>)> = many.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();

    let all = [
        ("code", pickled(b"\x80\x02cposix\nsystem\n\x8c\x04true\x85R.")),
        ("code by name from the stack", pickled(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.")),
        ("a name that prints badly", pickled(b"\x80\x02c\x1b[31m\nx\n.")),
        ("an object of a class", pickled(b"\x80\x02(i__main__\nModel\n.")),
        ("a string that claims 4 GB", pickled(b"\x80\x02X\xff\xff\xff\xffab.")),
        ("a string that claims 2^63 bytes", pickled(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.")),
        ("a tuple in a tuple in …", pickled(&nested(1_000_000))),
        ("more values than any model", pickled(&[&b"\x80\x02"[..], &vec![b')'; 3_000_000], b"."].concat())),
        ("doubling", pickled(&doubling)),
        ("an empty stack", pickled(b"\x80\x02R.")),
        ("no end", pickled(b"\x80\x02}")),
        ("a list", pickled(b"\x80\x02].")),
        ("a list that holds itself", pickled(b"\x80\x02]q\x00h\x00a.")),
        ("outside its storage", view(tensor(4, 1, &[4], &[1]))),
        ("claims a larger storage", view(tensor(1 << 30, 0, &[1 << 30], &[1]))),
        ("beyond any storage", view(tensor(i32::MAX, 0, &[i32::MAX; 4], &[i32::MAX; 4]))),
        ("repeats one element", view(tensor(4, 0, &[1 << 20, 1 << 10], &[0, 0]))),
        ("a negative size", view(tensor(4, 0, &[-4], &[1]))),
        ("no stride", view(tensor(4, 0, &[2, 2], &[1]))),
        ("nine dimensions", view(tensor(4, 0, &[1; 9], &[1; 9]))),
        ("no arguments", view(b"ctorch._utils\n_rebuild_tensor_v2\n)R".to_vec())),
        (
            "a parameter of a parameter of itself",
            pickled(b"\x80\x02}\x8c\x01wctorch._utils\n_rebuild_parameter\n]q\x00Rq\x01h\x00h\x01a0s."),
        ),
        ("views that overlap", refused(&checkpoint(&dict(&many), &[&[0; 4 * 4096]]))),
        ("a storage that is missing", refused(&checkpoint(&dict(&[("w", tensor(4, 0, &[4], &[1]))]), &[]))),
        ("a compressed entry", refused(&squeezed)),
        ("an entry that claims 4 GB", refused(&claiming)),
        ("entries that share their bytes", refused(&overlapping)),
        (
            "arrays of NumPy",
            refused(&{
                let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
                zip.start_file("w.npy", SimpleFileOptions::DEFAULT).unwrap();
                zip.finish().unwrap().into_inner()
            }),
        ),
        (
            "another archive",
            refused(&{
                let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
                zip.start_file("readme.txt", SimpleFileOptions::DEFAULT).unwrap();
                zip.finish().unwrap().into_inner()
            }),
        ),
    ];
    assert_snapshot!(all.map(|(what, told)| format!("## {what}\n{told}")).join("\n"));
}

#[test]
fn a_checkpoint_cut_anywhere_is_refused() {
    let bytes = std::fs::read(fixture("views.pt")).unwrap();
    for length in 0..bytes.len() {
        assert!(parse(&bytes[..length]).is_err(), "cut to {length} bytes");
    }
    let half = refused(&bytes[..bytes.len() / 2]);
    assert!(half.contains("truncated"), "{half}");
}

proptest! {
    #[test]
    fn any_changed_bytes_give_tensors_or_an_error(changes in prop::collection::vec((0usize..1 << 16, any::<u8>()), 1..6)) {
        let mut bytes = std::fs::read(fixture("types.pt")).unwrap();
        let length = bytes.len();
        changes.into_iter().for_each(|(at, value)| bytes[at % length] = value);
        let _ = parse(&bytes);
    }

    #[test]
    fn any_pickle_gives_tensors_or_an_error(tail in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&checkpoint(&[&b"\x80\x02"[..], &tail].concat(), &[&[0; 16]]));
    }

    #[test]
    fn any_changed_pickle_gives_tensors_or_an_error(changes in prop::collection::vec((0usize..1 << 12, any::<u8>()), 1..4)) {
        let mut pickle = dict(&[("a", tensor(4, 0, &[2, 2], &[1, 2])), ("b", tensor(4, 1, &[3], &[1]))]);
        let length = pickle.len();
        changes.into_iter().for_each(|(at, value)| pickle[at % length] = value);
        let _ = parse(&checkpoint(&pickle, &[&[0; 16]]));
    }
}
