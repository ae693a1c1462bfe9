use insta::assert_snapshot;
use tiepack::ingest::Config;

use crate::{Folder, told};

#[test]
fn keeps_unknown_keys_and_the_order_of_keys() {
    let text = r#"{"zeta": 1, "arch": "some-net", "alpha": {"b": [1, 2], "a": null}, "rate": 1e4}"#;
    let config = Config::from_json(text).unwrap();
    assert_eq!(config.arch, "some-net");
    let compact = config.to_json();
    assert_snapshot!(compact, @r#"{"zeta":1,"arch":"some-net","alpha":{"b":[1,2],"a":null},"rate":10000.0}"#);
    assert_eq!(Config::from_json(&compact).unwrap(), config);
}

#[test]
fn gives_typed_values() {
    let config = Config::from_json(r#"{"arch": "x", "layers": 9, "cap": 30.0, "base": 10000, "tied": true}"#).unwrap();
    assert_eq!(config.usize("layers").unwrap(), 9);
    assert_eq!(config.f64("cap").unwrap(), 30.0);
    // A whole number is a real number too.
    assert_eq!(config.f64("base").unwrap(), 10000.0);
    assert!(config.bool("tied").unwrap());
}

#[test]
fn missing_and_ill_typed_keys_are_named() {
    let config = Config::from_json(r#"{"arch": "x", "a": "nine", "b": -1, "c": 1.5, "d": [1], "e": 1}"#).unwrap();
    let errors = [
        config.usize("layers").unwrap_err(),
        config.usize("a").unwrap_err(),
        config.usize("b").unwrap_err(),
        config.usize("c").unwrap_err(),
        config.f64("d").unwrap_err(),
        config.bool("e").unwrap_err(),
    ];
    assert_snapshot!(errors.map(|e| told(&e)).join("\n"), @r#"
    error: the configuration has no `layers`
    error: the configuration's `a` is "nine", wanted a whole number
    error: the configuration's `b` is -1, wanted a whole number
    error: the configuration's `c` is 1.5, wanted a whole number
    error: the configuration's `d` is an array, wanted a number
    error: the configuration's `e` is 1, wanted true or false
    "#);
}

#[test]
fn a_configuration_without_architecture_is_refused() {
    let texts = ["{}", r#"{"arch": 3}"#, "[]", "{", ""];
    let errors = texts.map(|text| told(&Config::from_json(text).unwrap_err()));
    assert_snapshot!(errors.join("\n"), @"
    error: the configuration has no `arch`
    hint: `arch`, or `model_type` as Hugging Face has it, names the architecture that computes the logits
    error: the configuration's `arch` is 3, wanted a string
    error: the configuration is an array, wanted an object
    error: not valid JSON: EOF while parsing an object at line 1 column 1
    error: not valid JSON: EOF while parsing a value at line 1 column 0
    ");
}

#[test]
fn a_missing_file_is_named() {
    let folder = Folder::new(&[]);
    assert_snapshot!(folder.told(&Config::read(&folder.path("config.json")).unwrap_err()), @"
    error: cannot read FOLDER/config.json: No such file or directory (os error 2)
    ");
}

#[test]
fn what_python_writes_is_read() {
    // json.dumps({"model_type": "x", "limit": [0.0, math.inf], "low": -math.inf, "nan": math.nan}), and a BOM.
    let text = "\u{feff}{\"arch\": null, \"model_type\": \"x\", \"limit\": [0.0, Infinity], \"low\": -Infinity, \"nan\": NaN, \"layers\": null}";
    let config = Config::from_json(text).unwrap();
    assert_eq!(config.arch, "x");
    // As transformers writes and reads such numbers.
    assert_snapshot!(config.to_json(), @r#"{"arch":null,"model_type":"x","limit":[0.0,{"__float__":"Infinity"}],"low":{"__float__":"-Infinity"},"nan":{"__float__":"NaN"},"layers":null}"#);
    assert_eq!(Config::from_json(&config.to_json()).unwrap(), config);
    let errors = [config.usize("layers"), config.usize("low")].map(|read| told(&read.unwrap_err()));
    assert_snapshot!(errors.join("\n"), @"
    error: the configuration has no `layers`
    error: the configuration's `low` is an object, wanted a whole number
    ");
    let pages = ["<!doctype html><html>", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 612\n"];
    assert_snapshot!(pages.map(|page| told(&Config::from_json(page).unwrap_err())).join("\n"), @"
    error: a page of the web, not the file that it speaks of
    hint: download the file itself; the page may ask to log in, or to accept a licence
    error: a pointer of Git LFS, in place of the file of 612 bytes itself
    hint: fetch the file: git lfs pull
    ");
}
