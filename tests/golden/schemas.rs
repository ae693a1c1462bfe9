//! What the commands print with `--json` is what formats/*.schema.json promise.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::{FOLDER, QUANTIZED};

const MODEL: &str = "fixtures/pep-tiny";

fn schema(file: &str) -> Value {
    let text = std::fs::read_to_string(Path::new("formats").join(file)).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// As much of JSON Schema as the files use; a keyword that is not known here is a fault of its own. Beyond the schema,
/// a field that it does not describe is one too: the schemas are the documentation.
fn check(value: &Value, rules: &Value, file: &str, at: &str, faults: &mut Vec<String>) {
    let mut fault = |what: String| faults.push(format!("{at}: {what}"));
    for (keyword, rule) in rules.as_object().expect("a schema is an object") {
        match keyword.as_str() {
            "$schema" | "title" | "description" | "$defs" => {}
            "$ref" => {
                let (target, place) = rule.as_str().unwrap().split_once('#').unwrap();
                let target = if target.is_empty() { file } else { target };
                let whole = schema(target);
                let rules = whole.pointer(place).unwrap_or_else(|| panic!("{rule} leads nowhere"));
                check(value, rules, target, at, faults);
                return;
            }
            "anyOf" => {
                let tries = rule.as_array().unwrap().iter().map(|rules| {
                    let mut faults = Vec::new();
                    check(value, rules, file, at, &mut faults);
                    faults
                });
                let tries: Vec<_> = tries.collect();
                if tries.iter().all(|faults| !faults.is_empty()) {
                    fault(format!("none of {tries:?}"));
                }
            }
            "type" => {
                let types: Vec<&str> = match rule {
                    Value::Array(types) => types.iter().map(|t| t.as_str().unwrap()).collect(),
                    one => vec![one.as_str().unwrap()],
                };
                if !types.iter().any(|t| is(value, t)) {
                    fault(format!("{value} is not {types:?}"));
                }
            }
            "const" if value != rule => fault(format!("{value} is not {rule}")),
            "enum" if !rule.as_array().unwrap().contains(value) => fault(format!("{value} is not of {rule}")),
            "minimum" if value.as_f64().is_some_and(|v| v < rule.as_f64().unwrap()) => {
                fault(format!("{value} < {rule}"))
            }
            "maximum" if value.as_f64().is_some_and(|v| v > rule.as_f64().unwrap()) => {
                fault(format!("{value} > {rule}"))
            }
            "minItems" if value.as_array().is_some_and(|v| (v.len() as u64) < rule.as_u64().unwrap()) => {
                fault(format!("fewer than {rule} items"));
            }
            "maxItems" if value.as_array().is_some_and(|v| v.len() as u64 > rule.as_u64().unwrap()) => {
                fault(format!("more than {rule} items"));
            }
            // The one pattern there is.
            "pattern" => {
                assert_eq!(rule, "^[0-9a-f]{64}$");
                let hash = |v: &str| v.len() == 64 && v.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if !value.as_str().is_some_and(hash) {
                    fault(format!("{value} is no hash"));
                }
            }
            "const" | "enum" | "minimum" | "maximum" | "minItems" | "maxItems" => {}
            "required" => {
                let missing = |key: &&Value| value.is_object() && value.get(key.as_str().unwrap()).is_none();
                for key in rule.as_array().unwrap().iter().filter(missing) {
                    fault(format!("{key} is missing"));
                }
            }
            "additionalProperties" => assert_eq!(rule, false, "described fields are checked anyway"),
            "properties" | "items" => {}
            other => panic!("{file}: this test does not know {other}"),
        }
    }
    if let (Some(properties), Some(fields)) = (rules.get("properties"), value.as_object()) {
        for (key, value) in fields {
            match properties.get(key) {
                Some(rules) => check(value, rules, file, &format!("{at}.{key}"), faults),
                None => faults.push(format!("{at}: {key} is not described")),
            }
        }
    }
    if let (Some(rules), Some(items)) = (rules.get("items"), value.as_array()) {
        items.iter().enumerate().for_each(|(i, item)| check(item, rules, file, &format!("{at}[{i}]"), faults));
    }
}

fn is(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("no type of JSON: {other}"),
    }
}

fn faults(value: &Value, name: &str) -> Vec<String> {
    let (file, mut faults) = (format!("{name}.schema.json"), Vec::new());
    check(value, &schema(&file), &file, name, &mut faults);
    faults
}

/// Runs a command (words separated by spaces, `{}` for `dir`) with `--json` and returns its document.
fn document(line: &str, dir: &Path) -> Value {
    let words = line.split(' ').map(|word| word.replace("{}", &dir.to_string_lossy()));
    let output = Command::new(env!("CARGO_BIN_EXE_tiepack")).args(words).args(["--json", "--quiet"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{line}: {e} in {text:?}"))
}

#[track_caller]
fn fits(line: &str, name: &str, dir: &Path) -> Value {
    let document = document(line, dir);
    assert_eq!(faults(&document, name), [""; 0], "{line}\n{document:#}");
    document
}

#[test]
fn documents_are_as_their_schemas_say() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // Everything there is in a document, and everything that can be null in it.
    let full = fits(&format!("pack {MODEL} -o {{}}/a.tiepack --cap 400kB --lossless --val-rows 2"), "pack", dir);
    assert!(full.pointer("/verdict/evaluation/cost/bits_per_byte/value").is_some_and(Value::is_number), "{full}");
    fits(&format!("pack {MODEL} -o {{}}/b.tiepack --cap 400kB --lossless --no-eval"), "pack", dir);
    fits(&format!("verify {{}}/a.tiepack --against {MODEL} --val-rows 1 --cap 400kB"), "verify", dir);
    let bare = fits(&format!("verify {FOLDER}/{QUANTIZED}"), "verify", dir);
    assert!(["budget", "against", "evaluation"].iter().all(|key| bare["verdict"][*key].is_null()), "{bare}");
    fits(&format!("eval {MODEL} --val-rows 2"), "eval", dir);
    fits(&format!("eval {MODEL} --val-rows 2 --stride 64"), "eval", dir);
    fits(&format!("eval {{}}/a.tiepack --val {MODEL}/val_000.bin --val-rows 1"), "eval", dir);
    let line = format!("eval {MODEL} --limit 200 --documents 1 --losses {{}}/l.npy");
    assert_eq!(fits(&line, "eval", dir)["documents"], 1);
    fits(&format!("config {MODEL}"), "config", dir);
    std::fs::copy(format!("{MODEL}/model.safetensors"), dir.join("bare.safetensors")).unwrap();
    let bare = fits("config {}/bare.safetensors", "config", dir);
    assert!(bare["source"].is_null() && bare["network"].is_object(), "{bare}");
    fits(&format!("config {{}}/bare.safetensors --config {MODEL}/../golden/expected.json"), "error", dir);
    fits(&format!("inspect {MODEL}"), "inspect", dir);
    fits(
        &format!("inspect {{}}/a.tiepack --against {MODEL} --by layer --effort fast --calib-rows 8 --no-cache"),
        "inspect",
        dir,
    );
    fits(&format!("inspect {FOLDER}/v1-foreign.tiepack --indices"), "inspect", dir);
    fits(&format!("diff {MODEL} {{}}/a.tiepack --val {MODEL}/val_000.bin --val-rows 1"), "diff", dir);
    fits(&format!("diff {FOLDER}/{QUANTIZED} {FOLDER}/v1-foreign.tiepack --weights"), "diff", dir);
    std::fs::write(dir.join("nothing"), "").unwrap();
    fits(&format!("diff {{}}/nothing {FOLDER}/{QUANTIZED}"), "diff", dir);
    let line = format!("frontier {MODEL} --caps 500,60kB,400kB --statistics none --effort fast --val-rows 1");
    let points = fits(&line, "frontier", dir)["points"].clone();
    assert!(points[0]["refusal"].is_string() && points[1]["refusal"].is_null(), "{points}");
    let line = format!("tokens fixtures/README.md -o {{}}/text.bin --tokenizer {MODEL}/tokenizer.model");
    assert_eq!(fits(&line, "tokens", dir)["bits"], 16);
    fits("completions fish", "completions", dir);
    fits("man -o {}", "man", dir);
    fits(&format!("inspect {FOLDER}/{QUANTIZED}"), "inspect", dir);
    std::fs::write(dir.join("train.py"), "import tiepack\n").unwrap();
    fits(&format!("bundle {FOLDER}/{QUANTIZED} --script {{}}/train.py -o {{}}/one.py --cap 100kB"), "bundle", dir);
    fits(&format!("bundle {FOLDER}/{QUANTIZED} --script {{}}/train.py -o {{}}/two.py --apart"), "bundle", dir);
    let line = format!("bundle {FOLDER}/{QUANTIZED} --script {{}}/train.py -o {{}}/three.py --decoder import");
    assert_eq!(fits(&line, "bundle", dir)["decoder"], "import");
    let line = format!("pack {MODEL} -o {{}}/c.tiepack --cap 400kB --lossless --no-eval --bundle {{}}/train.py");
    assert!(fits(&line, "pack", dir)["bundle"].is_object());
    fits(&format!("unpack {FOLDER}/{QUANTIZED} -o {{}}/unpacked"), "unpack", dir);
}

#[test]
fn errors_are_as_their_schema_says() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("bad.tiepack"), "TPK1 and nothing else").unwrap();
    let cases = [
        ("inspect {}/nowhere".to_string(), "input", 1),
        ("pack".to_string(), "usage", 2),
        (format!("pack {MODEL} -o {{}}/out.tiepack --cap 100kB --lossless --no-eval"), "cap", 3),
        ("verify {}/bad.tiepack".to_string(), "verification", 4),
    ];
    for (line, kind, code) in cases {
        let document = fits(&line, "error", dir);
        assert_eq!(
            (&document["error"]["kind"], &document["error"]["exit_code"]),
            (&kind.into(), &code.into()),
            "{line}"
        );
    }
}

/// The check itself finds what is wrong.
#[test]
fn documents_that_break_a_rule_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let good = document(&format!("verify {FOLDER}/{QUANTIZED}"), dir.path());
    let broken: [(&str, Value); 5] = [
        ("/verdict/artifact/bytes", "3000".into()),
        ("/verdict/artifact/root", "f00".into()),
        ("/verdict/notes", Value::Null),
        ("/verdict/budget", serde_json::json!({ "cap": 1 })),
        ("/schema", 2.into()),
    ];
    for (place, new) in broken {
        let mut bad = good.clone();
        *bad.pointer_mut(place).unwrap() = new;
        assert_eq!(faults(&bad, "verify").len(), 1, "{place}");
    }
    let mut bad = good.clone();
    bad["verdict"].as_object_mut().unwrap().remove("artifact");
    bad["extra"] = 1.into();
    assert_eq!(faults(&bad, "verify").len(), 2);
}
