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
