use std::path::Path;

use insta::assert_snapshot;
use tiepack::ingest::folder::locate;
use tiepack::ingest::{Overrides, read};

use crate::{Folder, good_shard, safetensors};

const CONFIG: (&str, &[u8]) = ("config.json", br#"{"arch": "x"}"#);
const WEIGHTS: (&str, &[u8]) = ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}");

#[test]
fn everything_in_a_folder_is_picked_up_in_the_order_of_names() {
    let folder = Folder::new(&[
        WEIGHTS,
        CONFIG,
        ("ties.json", br#"{"copies": [0, 0]}"#),
        ("tokenizer.model", b""),
        ("train_001.bin", b""),
        ("train_000.bin", b""),
        ("val_000.bin", b""),
        ("train_log.json", b""),
        ("other.safetensors", b""),
    ]);
    let located = locate(folder.root(), &Overrides::default()).unwrap();
    assert_eq!(located.weights, folder.path("model.safetensors"));
    assert_eq!(located.config, Some(folder.path("config.json")));
    assert_eq!(located.ties, Some(folder.path("ties.json")));
    assert_eq!(located.tokenizer, Some(folder.path("tokenizer.model")));
    assert_eq!(located.train, ["train_000.bin", "train_001.bin"].map(|name| folder.path(name)));
    assert_eq!(located.val, [folder.path("val_000.bin")]);
    // The weights file alone means the same folder.
    assert_eq!(locate(&folder.path("model.safetensors"), &Overrides::default()).unwrap(), located);

    let source = read(&located).unwrap();
    assert_eq!(source.path, located.weights);
    assert_eq!((source.config.arch.as_str(), source.tensors.len()), ("x", 0));
    assert_eq!(source.ties.unwrap().copies, Some(vec![0, 0]));
}

#[test]
fn what_is_optional_may_be_absent() {
    let index: (&str, &[u8]) = ("model.safetensors.index.json", b"{\"weight_map\": {}}");
    let folder = Folder::new(&[index, CONFIG]);
    let located = locate(folder.root(), &Overrides::default()).unwrap();
    assert_eq!(located.weights, folder.path("model.safetensors.index.json"));
    assert_eq!((&located.ties, &located.tokenizer), (&None, &None));
    assert!(located.train.is_empty() && located.val.is_empty());
    assert!(read(&located).unwrap().ties.is_none());
    assert_snapshot!(folder.told(&located.train_tokens(8).unwrap_err()), @"
    error: no calibration tokens: there is no train_*.bin beside FOLDER/model.safetensors.index.json
    hint: name tokens or text with --calib
    ");
    assert_snapshot!(folder.told(&located.val_tokens(8).unwrap_err()), @"
    error: no validation tokens: there is no val_*.bin beside FOLDER/model.safetensors.index.json
    hint: name tokens or text with --val
    ");
}

#[test]
fn overrides_win_over_what_lies_there() {
    let beside = Folder::new(&[WEIGHTS, CONFIG, ("ties.json", b"bad"), ("train_0.bin", b"bad"), ("val_0.bin", b"bad")]);
    let other = Folder::new(&[
        ("c.json", br#"{"arch": "y"}"#),
        ("t.json", br#"{"aliases": {}}"#),
        ("tok", b""),
        ("b.bin", &good_shard(&[1, 2])),
        ("a.bin", &good_shard(&[3])),
    ]);
    let overrides = Overrides {
        config: Some(other.path("c.json")),
        ties: Some(other.path("t.json")),
        tokenizer: Some(other.path("tok")),
        calib: vec![other.path("b.bin"), other.path("a.bin")],
        val: vec![other.path("a.bin")],
        ..Overrides::default()
    };
    let located = locate(beside.root(), &overrides).unwrap();
    assert_eq!(located.train_tokens(4).unwrap(), [1, 2, 3]);
    assert_eq!(located.val_tokens(4).unwrap(), [3]);
    assert_eq!(located.tokenizer, overrides.tokenizer);
    let source = read(&located).unwrap();
    assert_eq!(source.config.arch, "y");
    assert_eq!(source.ties.unwrap().copies, None);
}

#[test]
fn missing_files_are_refused_with_the_way_out() {
    let nothing = Overrides::default();
    let many: Vec<String> = (0..7).map(|i| format!("{i}.safetensors")).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|name| (name.as_str(), WEIGHTS.1)).collect();
    let empty = Folder::new(&[]);
    let bare = Folder::new(&[WEIGHTS]);
    let many = Folder::new(&many);
    let whole = Folder::new(&[WEIGHTS, CONFIG]);
    let with = |overrides: Overrides| locate(whole.root(), &overrides).unwrap_err();
    let errors = [
        empty.told(&locate(empty.root(), &nothing).unwrap_err()),
        empty.told(&locate(&empty.path("model"), &nothing).unwrap_err()),
        bare.told(&locate(bare.root(), &nothing).unwrap().no_config()),
        many.told(&locate(many.root(), &nothing).unwrap_err()),
        whole.told(&with(Overrides { config: Some(whole.path("c.json")), ..nothing.clone() })),
        whole.told(&with(Overrides { ties: Some(whole.path("t.json")), ..nothing.clone() })),
        whole.told(&with(Overrides { tokenizer: Some(whole.path("tok")), ..nothing.clone() })),
        whole.told(&with(Overrides { calib: vec![whole.path("t.bin")], ..nothing.clone() })),
        whole.told(&with(Overrides { val: vec![whole.path("v.bin")], ..nothing.clone() })),
    ];
    assert_snapshot!(errors.join("\n"), @"
    error: there is no model.safetensors in FOLDER
    hint: name the folder that holds model.safetensors and config.json, or the weights file itself
    error: cannot read FOLDER/model: No such file or directory (os error 2)
    error: there is no config.json beside FOLDER/model.safetensors
    hint: name the configuration with --config; `tiepack config MODEL` guesses one from the tensors
    error: FOLDER holds 7 weights files: 0.safetensors, 1.safetensors, 2.safetensors, 3.safetensors, 4.safetensors and 2 more
    hint: name the one to read
    error: cannot read FOLDER/c.json: No such file or directory (os error 2)
    error: cannot read FOLDER/t.json: No such file or directory (os error 2)
    error: cannot read FOLDER/tok: No such file or directory (os error 2)
    error: cannot read FOLDER/t.bin: No such file or directory (os error 2)
    error: cannot read FOLDER/v.bin: No such file or directory (os error 2)
    ");
}

#[test]
fn a_single_weights_file_of_any_name_is_found() {
    let folder = Folder::new(&[("final.safetensors", &safetensors("{}", &[])), CONFIG]);
    let located = locate(folder.root(), &Overrides::default()).unwrap();
    assert_eq!(located.weights, folder.path("final.safetensors"));
}

#[test]
fn a_bare_file_name_means_the_current_folder() {
    // Cargo runs tests in the package's folder; any file there will do as weights that nobody reads.
    let error = locate(Path::new("Cargo.toml"), &Overrides::default()).unwrap().no_config();
    assert_snapshot!(error, @"there is no config.json beside Cargo.toml");
}

#[test]
fn patterns_are_expanded_where_the_shell_has_not() {
    let folder = Folder::new(&[
        WEIGHTS,
        CONFIG,
        ("fineweb_val_000001.bin", b""),
        ("fineweb_val_000000.bin", b""),
        ("fineweb_val_bytes_000000.bin", b""),
        ("fineweb_train_000000.bin", b""),
        ("odd[1].bin", b""),
    ]);
    let val = |names: &[&str]| {
        let val = names.iter().map(|name| folder.path(name)).collect();
        locate(folder.root(), &Overrides { val, ..Overrides::default() })
    };
    let wanted = ["fineweb_val_000000.bin", "fineweb_val_000001.bin"].map(|name| folder.path(name));
    assert_eq!(val(&["fineweb_val_*.bin"]).unwrap().val, wanted);
    assert_eq!(val(&["*_val_00000[0-9].bin"]).unwrap().val, wanted);
    // A file of that very name is no pattern.
    assert_eq!(val(&["odd[1].bin"]).unwrap().val, [folder.path("odd[1].bin")]);
    assert_snapshot!(folder.told(&val(&["val_*.bin"]).unwrap_err()), @"error: no file matches FOLDER/val_*.bin");
    let ill_formed = folder.told(&val(&["a[.bin"]).unwrap_err());
    assert!(ill_formed.starts_with("error: FOLDER/a[.bin is no pattern: "), "{ill_formed}");
}

#[test]
fn checkpoints_and_either_tokenizer_are_picked_up() {
    let pick = |files: &[(&str, &[u8])]| {
        let folder = Folder::new(files);
        let located = locate(folder.root(), &Overrides::default()).unwrap();
        let name = |path: std::path::PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        (name(located.weights), located.tokenizer.map(name))
    };
    let hf = pick(&[("pytorch_model.bin", b""), CONFIG, ("tokenizer.json", b"")]);
    assert_eq!(hf, ("pytorch_model.bin".into(), Some("tokenizer.json".into())));
    assert_eq!(pick(&[("final.pt", b""), CONFIG]), ("final.pt".into(), None));
    assert_eq!(pick(&[("last.ckpt", b""), CONFIG]), ("last.ckpt".into(), None));
    let part = "pytorch_model-00001-of-00002.bin";
    assert_eq!(pick(&[(part, b""), ("pytorch_model-00002-of-00002.bin", b"")]), (part.into(), None));
    let both = pick(&[("final.pt", b""), WEIGHTS, CONFIG, ("tokenizer.json", b""), ("tokenizer.model", b"")]);
    assert_eq!(both, ("model.safetensors".into(), Some("tokenizer.model".into())));
}
