//! Models that no registered network explains, and tensors that nothing depends on.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde_json::json;

use crate::{copy, edit_tensor, run, scratch};

/// Weights of a network of the user's own: two stacks, a bank, gains. Deterministic noise.
pub fn weights(dir: &Path) {
    let mut seed = 7u64;
    let mut noise = |n: usize| -> Vec<u8> {
        let value = |_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((seed >> 40) as f32 / (1 << 24) as f32 - 0.5).to_le_bytes()
        };
        (0..n).flat_map(value).collect()
    };
    let mut tensors = Vec::new();
    for stack in ["encoder", "decoder"] {
        for layer in 0..12 {
            tensors.push((format!("{stack}.{layer}.mix.weight"), vec![40usize, 32]));
            tensors.push((format!("{stack}.{layer}.gain"), vec![40]));
        }
    }
    tensors.push(("bank".into(), vec![3, 16, 32]));
    let data: Vec<Vec<u8>> = tensors.iter().map(|(_, shape)| noise(shape.iter().product())).collect();
    let view =
        |((name, shape), data): (&(String, Vec<usize>), &'_ Vec<u8>)| (name.clone(), shape.clone(), data.clone());
    let parts: Vec<_> = tensors.iter().zip(&data).map(view).collect();
    let views = parts
        .iter()
        .map(|(name, shape, data)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
    fs::write(dir.join("model.safetensors"), serialize(views, None).unwrap()).unwrap();
    fs::write(dir.join("config.json"), json!({"arch": "nobody-knows-it", "width": 32}).to_string()).unwrap();
}

fn tensors(path: &Path) -> HashMap<String, Vec<u8>> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect()
}

#[test]
fn tensors_that_the_network_does_not_know_are_packed_bit_for_bit() {
    let dir = copy(&[]);
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let probe: Vec<u8> = [0.5f32, -3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let extra = ("probe.weight".to_string(), TensorView::new(Dtype::F32, vec![2], &probe).unwrap());
    let more = serialize(file.tensors().into_iter().chain([extra]), None).unwrap();
    fs::write(&path, more).unwrap();
    let refused = run("pack {} -o {}/a.tiepack --cap 400kB --no-cache", dir.path());
    assert!(refused.code == 1 && refused.stderr.contains("probe.weight [2] is not expected"), "{}", refused.stderr);
    let packed = run("pack {} -o {}/a.tiepack --cap 400kB --lossless", dir.path()).good();
    assert!(packed.stdout.contains("a model of tensors that no network runs"), "{}", packed.stdout);
    run("verify {}/a.tiepack --against {}", dir.path()).good();
    run("unpack {}/a.tiepack -o {}/out", dir.path()).good();
    assert!(tensors(&path) == tensors(&dir.path().join("out/model.safetensors")));
}

#[test]
fn a_model_of_no_known_network_is_packed_opened_and_unpacked() {
    let dir = scratch();
    weights(dir.path());
    let refusal = run("pack {} -o {}/out.tiepack --cap 20kB --no-cache", dir.path());
    assert!(refusal.code == 1 && refusal.stderr.contains("--statistics"), "{}", refusal.stderr);

    // Bit for bit.
    run("pack {} -o {}/exact.tiepack --cap 200kB --lossless", dir.path()).good();
    run("unpack {}/exact.tiepack -o {}/exact", dir.path()).good();
    assert!(tensors(&dir.path().join("model.safetensors")) == tensors(&dir.path().join("exact/model.safetensors")));

    // What had no configuration comes back without one, and is packed again to the same file.
    let bare = scratch();
    fs::copy(dir.path().join("model.safetensors"), bare.path().join("model.safetensors")).unwrap();
    run("pack {} -o {}/a.tiepack --cap 200kB --lossless", bare.path()).good();
    run("unpack {}/a.tiepack -o {}/again", bare.path()).good();
    assert!(!bare.path().join("again/config.json").exists());
    run("pack {}/again -o {}/b.tiepack --cap 200kB --lossless", bare.path()).good();
    assert!(fs::read(bare.path().join("a.tiepack")).unwrap() == fs::read(bare.path().join("b.tiepack")).unwrap());

    // By squared error: at 4 bits a weight the error is a few percent of the weights' size.
    let pack = "pack {} -o {}/out.tiepack --cap 18kB --statistics none --write-plan {}/plan.json --json";
    let document = run(pack, dir.path()).good().json();
    let notes = document["verdict"]["notes"].to_string();
    assert!(notes.contains("unknown architecture") && document["verdict"]["evaluation"].is_null(), "{notes}");
    run("unpack {}/out.tiepack -o {}/out", dir.path()).good();
    let (before, after) =
        (tensors(&dir.path().join("model.safetensors")), tensors(&dir.path().join("out/model.safetensors")));
    for (name, data) in &before {
        let values = |bytes: &[u8]| -> Vec<f64> {
            bytes.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()
        };
        let (a, b) = (values(data), values(&after[name]));
        let energy = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>();
        let error = energy(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / energy(&mut a.iter().copied());
        assert!(error < 0.02, "{name}: {error}");
    }
    // Everything that needs no network works.
    let table = run("inspect {}/out.tiepack --json", dir.path()).good().json();
    assert_eq!((&table["layers"], &table["names"]), (&json!(12), &json!(49)));
    assert_eq!(table["bytes"], fs::metadata(dir.path().join("out.tiepack")).unwrap().len());
    run("verify {}/out.tiepack", dir.path()).good();
    run("verify {}/out.tiepack --against {}", dir.path()).good();
    run("pack {} -o {}/again.tiepack --cap 18kB --statistics none --plan {}/plan.json", dir.path()).good();
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert!(read("out.tiepack") == read("again.tiepack"), "the plan gave another file");
    // What needs one says so.
    let eval = run("eval {}/out.tiepack --val fixtures/pep-tiny/val_000.bin", dir.path());
    assert!(eval.code == 1 && eval.stderr.contains("nobody-knows-it"), "{}", eval.stderr);
}

#[test]
fn statistics_come_from_a_file() {
    let dir = scratch();
    let options = "--cap 90000 --effort fast --calib-rows 8 --no-eval";
    run(&format!("pack MODEL -o {{}}/measured.tiepack {options} --cache {{}}/cache"), dir.path()).good();
    let kept = fs::read_dir(dir.path().join("cache")).unwrap().next().unwrap().unwrap().path();
    let given = dir.path().join("given.safetensors");
    fs::copy(&kept, &given).unwrap();
    let pack =
        |out: &str| run(&format!("pack MODEL -o {{}}/{out} {options} --statistics {{}}/given.safetensors"), dir.path());
    pack("given.tiepack").good();
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert!(read("measured.tiepack") == read("given.tiepack"), "given statistics gave another file");

    // One matrix left out is packed with what is known, and the verdict says so.
    let bytes = fs::read(&given).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let but: Vec<(String, TensorView)> =
        file.tensors().into_iter().filter(|(name, _)| !name.starts_with("blocks.1.mlp.fc.weight:")).collect();
    let metadata = HashMap::from([("tokens".to_string(), "1024".to_string())]);
    fs::write(&given, serialize(but, Some(metadata)).unwrap()).unwrap();
    let told = pack("partly.tiepack").good().stdout;
    assert!(told.contains("for want of statistics: blocks.1.mlp.fc.weight"), "{told}");

    for (what, change) in [
        ("damaged", &(|bytes: &mut Vec<u8>| bytes.truncate(1000)) as &dyn Fn(&mut Vec<u8>)),
        ("a model", &|bytes| *bytes = fs::read("fixtures/pep-tiny/model.safetensors").unwrap()),
        ("of another hash", &|bytes| {
            *bytes = fs::read(&kept).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        }),
    ] {
        let mut bad = bytes.clone();
        change(&mut bad);
        fs::write(&given, bad).unwrap();
        let run = pack("bad.tiepack");
        assert!(run.code == 1 && run.stderr.contains("given.safetensors: "), "{what}: {}", run.stderr);
    }
}

#[test]
fn matrices_of_zeros_and_silent_branches_cost_next_to_nothing() {
    let model = copy(&[]);
    let weights = model.path().join("model.safetensors");
    let path = model.path().display();
    let pack = |name: &str| {
        let options = "--effort fast --calib-rows 8 --val-rows 4 --no-cache --statistics";
        let options = options.trim_end_matches(" --statistics");
        run(&format!("pack {path} -o {{}}/{name} --cap 90000 {options} --json"), model.path()).good().json()
    };
    // A zero-initialised projection: it is zero, and nothing of what feeds it reaches the predictions.
    for layer in [1, 2, 4] {
        let name = format!("blocks.{layer}.mlp.proj.weight");
        let tied = fs::read_to_string(model.path().join("ties.json")).unwrap();
        if layer == 1 || !tied.contains("copies") {
            edit_tensor(&weights, &name, |bytes| bytes.fill(0));
        }
    }
    let document = pack("out.tiepack");
    let notes = document["verdict"]["notes"].to_string();
    assert!(notes.contains("nothing depends on these matrices") && notes.contains("blocks.1.mlp.fc.weight"), "{notes}");
    let divergence = &document["verdict"]["evaluation"]["cost"]["divergence"]["mean"]["value"];
    assert!(divergence.as_f64().unwrap() < 0.1, "{divergence}");
    let rows = run("inspect {}/out.tiepack --json", model.path()).good().json()["rows"].clone();
    let zeros: Vec<_> = rows.as_array().unwrap().iter().filter(|row| row["codec"] == "zero").cloned().collect();
    assert_eq!(zeros.len(), 1, "{rows}");
    assert_eq!((&zeros[0]["bytes"], zeros[0]["tensors"].as_array().unwrap().len()), (&json!(0), 2));
}

#[test]
fn embedding_rows_of_zeros_that_occur_in_the_text_are_no_end() {
    // Behind the norm of a zero vector gradients overflow, also those of the matrices that it passes.
    let model = copy(&[]);
    edit_tensor(&model.path().join("model.safetensors"), "tok_emb.weight", |bytes| {
        let row = bytes.len() / 1024;
        bytes[100 * row..900 * row].fill(0);
    });
    let options = "--cap 90kB --effort fast --calib-rows 8 --val-rows 4 --no-cache --json";
    let document = run(&format!("pack {{}} -o {{}}/out.tiepack {options}"), model.path()).good().json();
    let cost = &document["verdict"]["evaluation"]["cost"];
    assert!(cost["divergence"]["mean"]["value"].as_f64().unwrap() < 0.1, "{cost}");
    let note = document["verdict"]["notes"].to_string();
    assert!(note.contains("useless, as the original is"), "{note}");
}

/// Tensors that are no weights, of every type that a safetensors file has; a mask that is no number, a table of a rotary embedding.
fn beside() -> Vec<(String, Dtype, Vec<usize>, Vec<u8>)> {
    let bytes = |n: usize| (0..n).map(|i| (i * i % 251) as u8).collect::<Vec<u8>>();
    let mut all: Vec<_> = [
        ("quantized.qweight", Dtype::I32, 4),
        ("hash.table", Dtype::I64, 8),
        ("hash.seeds", Dtype::U64, 8),
        ("hash.small", Dtype::U32, 4),
        ("codes.a", Dtype::I16, 2),
        ("codes.b", Dtype::U16, 2),
        ("codes.c", Dtype::I8, 1),
        ("codes.d", Dtype::U8, 1),
        ("rotary.inv_freq", Dtype::F32, 4),
        ("old.rotary.inv_freq", Dtype::F64, 8),
    ]
    .into_iter()
    .map(|(name, dtype, size)| (name.to_string(), dtype, vec![3, 5], bytes(15 * size)))
    .collect();
    all.push(("used".into(), Dtype::BOOL, vec![7], vec![1, 0, 0, 1, 1, 0, 1]));
    all.push(("norm.num_batches_tracked".into(), Dtype::I64, vec![], 12_345i64.to_le_bytes().to_vec()));
    all.push(("nothing".into(), Dtype::I32, vec![0, 4], vec![]));
    let inf = f32::NEG_INFINITY;
    let mask = [0., inf, inf, 0., 0., inf, 0., 0., 0.].into_iter().flat_map(f32::to_le_bytes).collect();
    all.push(("attention.mask".into(), Dtype::F32, vec![3, 3], mask));
    all
}

/// Adds tensors to a weights file.
fn add(weights: &Path, others: &[(String, Dtype, Vec<usize>, Vec<u8>)]) {
    let bytes = fs::read(weights).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let views = others
        .iter()
        .map(|(name, dtype, shape, data)| (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    fs::write(weights, serialize(file.tensors().into_iter().chain(views), None).unwrap()).unwrap();
}

/// Names, types, shapes and bytes of a weights file.
fn contents(path: &Path) -> std::collections::BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let entry = |view: &TensorView| (format!("{:?}", view.dtype()), view.shape().to_vec(), view.data().to_vec());
    file.tensors().into_iter().map(|(name, view)| (name, entry(&view))).collect()
}

#[test]
fn what_is_no_weight_is_kept_bit_for_bit_where_no_network_says_what_it_is() {
    let dir = scratch();
    weights(dir.path());
    let file = dir.path().join("model.safetensors");
    add(&file, &beside());
    let own = contents(&file);
    let kept = |path: &Path| -> std::collections::BTreeMap<_, _> {
        contents(path).into_iter().filter(|(name, _)| beside().iter().any(|(own, ..)| own == name)).collect()
    };
    for (name, options) in [("exact", "200kB --lossless"), ("lossy", "24kB --statistics none --no-cache")] {
        let packed = run(&format!("pack {{}} -o {{}}/{name}.tiepack --cap {options}"), dir.path()).good();
        assert!(!packed.stdout.contains("left out"), "{}", packed.stdout);
        run(&format!("unpack {{}}/{name}.tiepack -o {{}}/{name}"), dir.path()).good();
        let back = dir.path().join(name).join("model.safetensors");
        assert_eq!(kept(&back), kept(&file));
        assert_eq!(contents(&back) == own, name == "exact");
        run(&format!("verify {{}}/{name}.tiepack --against {{}}"), dir.path()).good();
    }
    // Every byte of it is in a row, and the kept ones among them.
    let seen = run("inspect {}/exact.tiepack --json", dir.path()).good().json();
    let rows = seen["rows"].as_array().unwrap();
    let named: usize =
        rows.iter().filter(|row| row["part"] == "no weights").map(|row| row["tensors"].as_array().unwrap().len()).sum();
    assert_eq!(named, beside().len());
    run("diff {} {}/exact --exit-code", dir.path()).good();
    // A change of one bit is seen, with and without a container around it.
    edit_tensor(&dir.path().join("exact/model.safetensors"), "hash.table", |bytes| bytes[9] ^= 4);
    let changed = run("diff {}/exact.tiepack {}/exact --exit-code --weights", dir.path());
    assert!(
        changed.code == 1 && changed.stdout.contains("no weights, and not the same: hash.table"),
        "{}",
        changed.stdout
    );
    let refused = run("verify {}/exact.tiepack --against {}/exact", dir.path());
    assert!(refused.code == 4 && refused.stderr.contains("hash.table"), "{}", refused.stderr);
}

#[test]
fn a_known_network_computes_its_masks_itself_and_keeps_other_integers() {
    let dir = scratch();
    for name in ["model.safetensors", "config.json"] {
        fs::copy(Path::new("fixtures/parity/gpt2").join(name), dir.path().join(name)).unwrap();
    }
    let triangle: Vec<u8> = (0..576).map(|i| u8::from(i % 24 <= i / 24)).collect();
    let positions: Vec<u8> = (0..24i64).flat_map(i64::to_le_bytes).collect();
    let others = [
        ("transformer.h.0.attn.bias".to_string(), Dtype::BOOL, vec![1, 1, 24, 24], triangle),
        ("transformer.position_ids".to_string(), Dtype::I64, vec![1, 24], positions),
        ("vocabulary.hash".to_string(), Dtype::I64, vec![2], vec![7; 16]),
    ];
    add(&dir.path().join("model.safetensors"), &others);
    let said = run("pack {} -o {}/a.tiepack --cap 200kB --lossless --no-eval", dir.path()).good().stdout;
    assert!(said.contains("left out") && !said.contains("vocabulary"), "{said}");
    run("unpack {}/a.tiepack -o {}/back", dir.path()).good();
    let (own, back) =
        (contents(&dir.path().join("model.safetensors")), contents(&dir.path().join("back/model.safetensors")));
    let gone: Vec<&String> = own.keys().filter(|name| !back.contains_key(*name)).collect();
    assert_eq!(gone, ["transformer.h.0.attn.bias", "transformer.position_ids"]);
    assert!(back.iter().all(|(name, tensor)| own[name] == *tensor));
}

#[test]
fn names_come_back_as_the_file_had_them() {
    // GPT-2 without the prefix of its stack, Qwen2 with a second name for the embedding: as many files are.
    for (network, edit, cost) in [
        (
            "gpt2",
            &(|name: &str| vec![name.trim_start_matches("transformer.").to_string()]) as &dyn Fn(&str) -> Vec<String>,
            40,
        ),
        (
            "qwen2",
            &|name| match name {
                "model.embed_tokens.weight" => vec![name.to_string(), "lm_head.weight".into()],
                name => vec![name.to_string()],
            },
            40,
        ),
    ] {
        let dir = scratch();
        let model = Path::new("fixtures/parity").join(network);
        let bytes = fs::read(model.join("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let views = file
            .tensors()
            .into_iter()
            .flat_map(|(name, view)| edit(&name).into_iter().map(move |name| (name, view.clone())));
        fs::write(dir.path().join("model.safetensors"), serialize(views, None).unwrap()).unwrap();
        fs::copy(model.join("config.json"), dir.path().join("config.json")).unwrap();
        run("pack {} -o {}/a.tiepack --cap 200kB --lossless --no-eval", dir.path()).good();
        run("unpack {}/a.tiepack -o {}/back", dir.path()).good();
        assert!(
            contents(&dir.path().join("model.safetensors")) == contents(&dir.path().join("back/model.safetensors")),
            "{network}"
        );
        // The canonical names are still those of the network, and the other ones cost little.
        let network_of = run("inspect {}/a.tiepack --json", dir.path()).good().json();
        assert!(network_of["rows"].to_string().contains(if network == "gpt2" {
            "transformer.wte.weight"
        } else {
            "model.embed_tokens.weight"
        }));
        run(&format!("pack fixtures/parity/{network} -o {{}}/b.tiepack --cap 200kB --lossless --no-eval"), dir.path())
            .good();
        let size = |name: &str| fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(
            (1..=cost).contains(&(size("a.tiepack") - size("b.tiepack"))),
            "{network}: {}",
            size("a.tiepack") - size("b.tiepack")
        );
    }
}

#[test]
fn curvature_that_vanishes_leaves_no_cap_empty() {
    let dir = scratch();
    weights(dir.path());
    let bytes = fs::read(dir.path().join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut parts: Vec<(String, Vec<usize>)> = Vec::new();
    for (name, view) in file.tensors() {
        match view.shape() {
            [rows @ .., cols] if !rows.is_empty() => {
                parts.push((format!("{name}:input"), vec![*cols, *cols]));
                parts.push((format!("{name}:output"), vec![rows.iter().product()]));
            }
            shape => parts.push((format!("{name}:curvature"), shape.to_vec())),
        }
    }
    let zeros = vec![0u8; 4 * 64 * 64];
    let views = parts.iter().map(|(name, shape)| {
        let data = &zeros[..4 * shape.iter().product::<usize>()];
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
    });
    let told = HashMap::from([("tokens".to_string(), "4096".to_string())]);
    fs::write(dir.path().join("none.safetensors"), serialize(views, Some(told)).unwrap()).unwrap();
    let line = "pack {} -o {}/out.tiepack --cap 18kB --statistics {}/none.safetensors --json";
    let verdict = run(line, dir.path()).good().json()["verdict"].clone();
    let bytes = verdict["artifact"]["bytes"].as_u64().unwrap();
    assert!(bytes > 17_500, "{bytes} of 18,000 bytes");
    let notes = verdict["notes"].to_string();
    assert!(!notes.contains("nothing depends on these matrices"), "{notes}");
}
