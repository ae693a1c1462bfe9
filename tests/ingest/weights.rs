use half::{bf16, f16};
use insta::assert_snapshot;
use proptest::prelude::*;
use tiepack::ingest::Dtype;
use tiepack::ingest::weights::{parse, read};

use crate::{Folder, safetensors, told};

/// Two tensors: `a` F32 (2, 3), `b` BF16 (2,).
fn sample() -> Vec<u8> {
    let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[24,28]}}"#;
    let mut body: Vec<u8> = [1.0f32, -2.5, 0.0, 1e-40, f32::MAX, -0.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    body.extend([0.1f32, 3.0].iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()));
    safetensors(header, &body)
}

/// One F32 tensor `w`.
fn one(shape: &str, data: &[f32]) -> Vec<u8> {
    let header = format!(r#"{{"w":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{}]}}}}"#, data.len() * 4);
    safetensors(&header, &data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())
}

#[test]
fn every_dtype_widens_exactly() {
    let tensors = parse(&sample()).unwrap().tensors;
    let (a, b) = (&tensors["a"], &tensors["b"]);
    assert_eq!((a.shape.as_slice(), a.dtype), (&[2, 3][..], Dtype::F32));
    assert_eq!(*a.data, [1.0, -2.5, 0.0, 1e-40, f32::MAX, -0.0]);
    assert_eq!((b.shape.as_slice(), b.dtype), (&[2][..], Dtype::Bf16));
    assert_eq!(*b.data, [bf16::from_f32(0.1).to_f32(), 3.0]);
    let half = [f16::from_f32(0.1), f16::MIN_POSITIVE_SUBNORMAL, f16::MIN];
    let body: Vec<u8> = half.iter().flat_map(|x| x.to_le_bytes()).collect();
    let file = safetensors(r#"{"h":{"dtype":"F16","shape":[3],"data_offsets":[0,6]}}"#, &body);
    assert_eq!(*parse(&file).unwrap().tensors["h"].data, half.map(f16::to_f32));
}

#[test]
fn rounding_to_a_dtype_is_to_nearest_even_and_idempotent() {
    assert_eq!(Dtype::F32.round(0.1), 0.1f32);
    // Halfway between 1 and 1 + 2^-7, and between 1 + 2^-7 and 1 + 2^-6.
    assert_eq!(Dtype::Bf16.round(1.0 + 2f64.powi(-8)), 1.0);
    assert_eq!(Dtype::Bf16.round(1.0 + 3.0 * 2f64.powi(-8)), 1.0 + 2f32.powi(-6));
    assert_eq!(Dtype::F16.round(f64::from(f16::MAX.to_f32())), f16::MAX.to_f32());
}

#[test]
fn scalars_and_empty_tensors_are_tensors() {
    assert_eq!(parse(&one("[]", &[5.0])).unwrap().tensors["w"].shape, [0usize; 0]);
    assert!(parse(&one("[0,7]", &[])).unwrap().tensors["w"].data.is_empty());
    assert!(parse(&safetensors("{}", &[])).unwrap().tensors.is_empty());
}

#[test]
fn weights_that_are_not_finite_are_counted_and_located() {
    let mut grid = vec![0.5f32; 24];
    grid[17] = f32::NAN;
    grid[20] = f32::NEG_INFINITY;
    let errors = [one("[2,3,4]", &grid), one("[]", &[f32::INFINITY])].map(|bytes| told(&parse(&bytes).unwrap_err()));
    assert_snapshot!(errors.join("\n"), @"
    error: w: 2 of 24 weights are not finite, the first at [1, 1, 1] is NaN
    hint: the training run diverged or the file is damaged; use an earlier checkpoint
    error: w: 1 of 1 weights is not finite, the first at [] is inf
    hint: the training run diverged or the file is damaged; use an earlier checkpoint
    ");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = sample();
    for length in 0..bytes.len() {
        assert!(parse(&bytes[..length]).is_err(), "cut to {length} bytes");
    }
    let told =
        [0, 7, 8, 40, bytes.len() - 28, bytes.len() - 1].map(|length| told(&parse(&bytes[..length]).unwrap_err()));
    assert_snapshot!(told.join("\n"), @"
    error: truncated: 0 bytes, a safetensors file has at least 8
    error: truncated: 7 bytes, a safetensors file has at least 8
    error: truncated, or no safetensors file: the header claims 144 bytes, 0 follow
    error: truncated, or no safetensors file: the header claims 144 bytes, 32 follow
    error: truncated: the header describes 28 bytes of tensors, 0 follow it
    error: truncated: the header describes 28 bytes of tensors, 27 follow it
    ");
}

#[test]
fn a_header_that_lies_is_refused_by_tensor() {
    let w = |entry: &str| safetensors(&format!(r#"{{"w":{entry}}}"#), &[0; 24]);
    let mut long = sample();
    long.push(0);
    let mut huge = sample();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let all = [
        w(r#"{"dtype":"F32","shape":[2,4],"data_offsets":[0,24]}"#),
        w(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,24]}"#),
        w(r#"{"dtype":"F32","shape":[6],"data_offsets":[24,0]}"#),
        w(r#"{"dtype":"F32","shape":[5],"data_offsets":[4,24]}"#),
        w(r#"{"dtype":"F32","shape":[3],"data_offsets":[0,12]}"#),
        w(r#"{"dtype":"F32","shape":[7],"data_offsets":[0,28]}"#),
        w(r#"{"dtype":"F32","shape":[-6],"data_offsets":[0,24]}"#),
        w(r#"{"dtype":"F32","shape":[6]}"#),
        w("[1]"),
        w(r#"{"dtype":"C64","shape":[3],"data_offsets":[0,24]}"#),
        w(r#"{"dtype":"Q4_K","shape":[3],"data_offsets":[0,24]}"#),
        safetensors("{\"w\":", &[]),
        long,
        huge,
        b"PK\x03\x04 and the rest of an archive".to_vec(),
    ];
    let errors = all.map(|bytes| told(&parse(&bytes).unwrap_err()));
    assert_snapshot!(errors.join("\n"), @r#"
    error: the header lies about w: shape [2, 4] of F32 is 32 bytes, its range is 0..24
    error: the header lies about w: no file holds shape [4294967296, 4294967296]
    error: the header lies about w: its bytes do not begin where those of the tensor before it end
    error: the header lies about w: its bytes do not begin where those of the tensor before it end
    error: too long: the header describes 12 bytes of tensors, 24 follow it
    error: truncated: the header describes 28 bytes of tensors, 24 follow it
    error: the header's entry of w is ill-formed: invalid value: integer `-6`, expected usize
    error: the header's entry of w is ill-formed: missing field `data_offsets`
    error: the header's entry of w is ill-formed: invalid type: integer `1`, expected string or map
    error: w has dtype C64, wanted F32, F16 or BF16
    hint: save the model as float32, float16 or bfloat16
    error: w has dtype Q4_K, wanted F32, F16 or BF16
    hint: save the model as float32, float16 or bfloat16
    error: the header is not that of a safetensors file: EOF while parsing a value at line 1 column 5
    error: too long: the header describes 28 bytes of tensors, 29 follow it
    error: truncated, or no safetensors file: the header claims 18446744073709551615 bytes, 172 follow
    error: the zip archive is truncated or damaged: invalid Zip archive: Could not find EOCD
    hint: copy the file again
    "#);
}

#[test]
fn files_are_named() {
    let folder =
        Folder::new(&[("model.safetensors", &sample()), ("empty.safetensors", b""), ("cut.safetensors", b"abc")]);
    assert_eq!(read(&folder.path("model.safetensors")).unwrap().tensors.len(), 2);
    let names = ["none.safetensors", "empty.safetensors", "cut.safetensors", ""];
    let errors = names.map(|name| folder.told(&read(&folder.path(name)).unwrap_err()));
    assert_snapshot!(errors.join("\n"), @"
    error: cannot read FOLDER/none.safetensors: No such file or directory (os error 2)
    error: FOLDER/empty.safetensors is empty
    error: FOLDER/cut.safetensors: truncated: 3 bytes, a safetensors file has at least 8
    error: FOLDER/ is a folder, wanted a weights file
    ");
}

#[test]
fn a_sharded_model_is_read_whole() {
    let index =
        br#"{"metadata":{"total_size":32},"weight_map":{"a":"1.safetensors","b":"1.safetensors","w":"2.safetensors"}}"#;
    let folder =
        Folder::new(&[("m.index.json", index), ("1.safetensors", &sample()), ("2.safetensors", &one("[1]", &[2.0]))]);
    let tensors = read(&folder.path("m.index.json")).unwrap().tensors;
    assert_eq!(tensors.keys().collect::<Vec<_>>(), ["a", "b", "w"]);
    assert_eq!(*tensors["w"].data, [2.0]);
}

#[test]
fn an_index_that_lies_is_refused() {
    let indices = [
        r#"{"weight_map":{"a":"1.safetensors","b":"1.safetensors","c":"1.safetensors"}}"#,
        r#"{"weight_map":{"a":"1.safetensors"}}"#,
        r#"{"weight_map":{"a":"../1.safetensors"}}"#,
        r#"{"weight_map":{"a":7}}"#,
        r#"{"weight_map":{"a":".."}}"#,
        r#"{"weight_map":{"a":"none.safetensors"}}"#,
        r#"{"weight_map":{"a":"m.index.json"}}"#,
        r#"{"weight_map":[]}"#,
        "{",
    ];
    let errors = indices.map(|index| {
        let folder = Folder::new(&[("m.index.json", index.as_bytes()), ("1.safetensors", &sample())]);
        folder.told(&read(&folder.path("m.index.json")).unwrap_err())
    });
    assert_snapshot!(errors.join("\n"), @r#"
    error: FOLDER/m.index.json: the index puts c into 1.safetensors, which does not hold it
    error: FOLDER/m.index.json: 1.safetensors holds b, which the index does not put there
    error: FOLDER/m.index.json: the index puts a into "../1.safetensors", wanted a file name
    error: FOLDER/m.index.json: the index puts a into 7, wanted a file name
    error: FOLDER/m.index.json: the index puts a into "..", wanted a file name
    error: cannot read FOLDER/none.safetensors: No such file or directory (os error 2)
    error: FOLDER/m.index.json: text, no weights file: it begins with "{\"weight_map\":{\"a\":\"m.index.json\"}}"
    hint: name a .safetensors file or a PyTorch checkpoint
    error: FOLDER/m.index.json: the index has no object `weight_map`
    error: FOLDER/m.index.json: not valid JSON: EOF while parsing an object at line 1 column 1
    "#);
}

#[test]
fn what_is_no_weights_file_is_called_what_it_is() {
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b\nsize 437955512\n";
    let all: [&[u8]; 12] = [
        pointer.as_bytes(),
        b"\n<!DOCTYPE html>\n<html><head><title>Log in</title></head></html>",
        b"GGUF\x03\0\0\0\x24\0\0\0",
        // As gzip, zlib and zstd write an empty stream.
        b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\x03\0\0\0\0\0\0\0\0\0",
        b"x\x9c\x03\0\0\0\0\x01",
        b"\x28\xb5\x2f\xfd\x24\0\x01\0\0\x99\xe9\xd8\x51",
        &tar,
        b"\x80\x04\x95\x1c\0\0\0\0\0\0\0}\x94.",
        b"\x93NUMPY\x01\0v\0{'descr': '<f4', }",
        b"{\"model_type\": \"gpt2\", \"n_layer\": 12}",
        b"Access to this model is restricted. You must be authenticated.",
        b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    ];
    assert_snapshot!(all.map(|bytes| told(&parse(bytes).unwrap_err())).join("\n"));
    // A header of as many bytes as these beginnings claim is still one.
    for length in [0x178usize, 0x9c78 - 0x9b00] {
        let bytes =
            safetensors(&format!("{:length$}", r#"{"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#), &[]);
        assert!(parse(&bytes).is_ok(), "{length}");
    }
}

#[test]
fn ties_that_the_file_states_are_read() {
    let weights = read(std::path::Path::new("fixtures/checkpoints/tied.safetensors")).unwrap();
    assert_eq!(weights.tensors.keys().collect::<Vec<_>>(), ["embed.weight", "head.weight"]);
    let data = |name: &str| weights.tensors[name].data.clone();
    assert!(std::sync::Arc::ptr_eq(&data("embed.weight"), &data("head.weight")));
    assert_snapshot!(weights.remarks[0].message(), @"ties that the file states: head.weight is embed.weight");
    // What does not name a tensor that is there, or one that is, is no tie.
    let header =
        r#"{"__metadata__":{"format":"pt","b":"none","w":"w"},"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#;
    let weights = parse(&safetensors(header, &[])).unwrap();
    assert!(weights.tensors.len() == 1 && weights.remarks.is_empty(), "{:?}", weights.remarks);
}

#[test]
fn a_header_is_bounded_before_it_is_parsed() {
    let header = |entry: &dyn Fn(usize) -> String, count: usize| {
        let entries: Vec<String> = (0..count).map(entry).collect();
        safetensors(&format!("{{{}}}", entries.join(",")), &[])
    };
    let tensor = |i: usize| format!(r#""t{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#);
    assert_eq!(parse(&header(&tensor, 16_384)).unwrap().tensors.len(), 16_384);
    let mut long = vec![b' '; 100_000_010];
    long[..8].copy_from_slice(&100_000_001u64.to_le_bytes());
    let all = [
        header(&tensor, 16_385),
        header(&tensor, 200_000),
        header(&|i| format!(r#""{i}":[]"#), 300_000),
        safetensors(
            &format!(r#"{{"w":{{"dtype":"F32","shape":[{}0],"data_offsets":[0,0]}}}}"#, "1,".repeat(500_000)),
            &[],
        ),
        long,
    ];
    assert_snapshot!(all.map(|bytes| told(&parse(&bytes).unwrap_err())).join("\n"), @"
    error: the header describes 16385 tensors, a model has at most 16384
    hint: give the tensors of one model
    error: the header describes 200000 tensors, a model has at most 16384
    hint: give the tensors of one model
    error: the header has 300000 keys and 299999 commas, a model's has at most 131072 and 327680
    error: the header has 4 keys and 500003 commas, a model's has at most 131072 and 327680
    error: the header takes 100000001 bytes, the format allows 100000000
    ");
}

#[test]
fn a_shape_that_no_file_holds_is_refused_though_it_is_empty() {
    let of = |shape: &str| {
        let header = format!(r#"{{"w":{{"dtype":"F32","shape":{shape},"data_offsets":[0,0]}}}}"#);
        parse(&safetensors(&header, &[])).map(|weights| weights.tensors["w"].shape.clone())
    };
    assert_eq!(of("[0,1099511627776]").unwrap(), [0, 1 << 40]);
    let shapes = ["[0,9223372036854775808]", "[0,4294967296,4294967296]", "[4294967296,4294967296,0]"];
    assert_snapshot!(shapes.map(|shape| told(&of(shape).unwrap_err())).join("\n"), @"
    error: w has shape [0, 9223372036854775808], which no file holds
    error: w has shape [0, 4294967296, 4294967296], which no file holds
    error: the header lies about w: no file holds shape [4294967296, 4294967296, 0]
    ");
}

#[test]
fn parts_without_an_index_are_one_model() {
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let folder = Folder::new(&[(first, &sample()), (second, &one("[1]", &[2.0]))]);
    let located = tiepack::ingest::folder::locate(folder.root(), &tiepack::ingest::Overrides::default()).unwrap();
    assert_eq!(located.weights, folder.path(first));
    let files: Vec<_> = located.files().iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(files, [first, second]);
    // Any part stands for all.
    for part in [first, second] {
        let tensors = read(&folder.path(part)).unwrap().tensors;
        assert_eq!(tensors.keys().collect::<Vec<_>>(), ["a", "b", "w"]);
    }
    let twice = Folder::new(&[(first, &sample()), (second, &sample())]);
    let half = Folder::new(&[(second, &sample())]);
    let errors = [&twice, &half].map(|folder| folder.told(&read(&folder.path(second)).unwrap_err()));
    assert_snapshot!(errors.join("\n"), @"
    error: FOLDER/model-00001-of-00002.safetensors and FOLDER/model-00002-of-00002.safetensors both hold a
    hint: are these parts of one model?
    error: FOLDER/model-00001-of-00002.safetensors is missing, one of 2 parts of the model
    hint: a model is packed whole: fetch the part that is missing
    ");
}

#[test]
fn weights_that_were_quantized_already_are_told_by_their_names() {
    let of = |names: &[&str]| {
        let entry = |name: &&str| format!(r#""{name}":{{"dtype":"F16","shape":[0],"data_offsets":[0,0]}}"#);
        let entries: Vec<String> = names.iter().map(entry).collect();
        let weights = parse(&safetensors(&format!("{{{}}}", entries.join(",")), &[])).unwrap();
        weights.remarks.iter().map(|remark| remark.message()).collect::<Vec<_>>().join("; ")
    };
    let all = [
        of(&["q.g_idx", "q.qweight", "q.qzeros", "q.scales", "k.qweight", "k.qzeros", "k.scales"]),
        of(&["q.weight", "q.weight.absmax", "q.weight.quant_map", "q.weight.quant_state.bitsandbytes__nf4"]),
        of(&["q.SCB", "q.weight", "q.weight_format"]),
        of(&["q.weight", "q.weight_scale_inv"]),
        of(&["q.weight_packed", "q.weight_scale", "q.weight_shape"]),
        of(&["q.weight", "q.scales", "myqweight"]),
    ];
    assert_snapshot!(all.join("\n"), @"
    the weights were quantized already, as GPTQ or AWQ does: k.qweight and 1 more
    the weights were quantized already, as bitsandbytes in 4 bits does: q.weight.absmax
    the weights were quantized already, as bitsandbytes in 8 bits does: q.SCB
    the weights were quantized already, as FP8 with scales beside it does: q.weight_scale_inv
    the weights were quantized already, as compressed-tensors does: q.weight_packed
    ");
}

proptest! {
    #[test]
    fn any_bytes_give_tensors_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn any_header_gives_tensors_or_an_error(header in r#"\{("[ab]":\{("(dtype|shape|data_offsets)":("F32"|"BF16"|"F4"|\[[0-9]{1,20}(,[0-9]{1,20})?\]),?){1,3}\},?){0,3}\}"#) {
        let _ = parse(&safetensors(&header, &[0; 16]));
    }

    #[test]
    fn any_changed_byte_gives_tensors_or_an_error(at in 0usize..200, value: u8) {
        let mut bytes = sample();
        let at = at % bytes.len();
        bytes[at] = value;
        let _ = parse(&bytes);
    }
}
