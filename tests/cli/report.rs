//! Pages and pictures: the figures on them are those of `--json`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{copy, packed, run, scratch};

/// Every figure on a page: where it says that it stands, and its value.
fn figures(page: &str) -> Vec<(String, f64)> {
    let attribute = |text: &str, name: &str| {
        let rest = text.split_once(&format!("{name}=\"")).unwrap_or_else(|| panic!("no {name} in {text}")).1;
        rest.split('"').next().unwrap().to_string()
    };
    let elements = page.split("<data ").skip(1).map(|rest| (rest, "value"));
    let in_pictures = page.split("<tspan ").skip(1).map(|rest| (rest, "data-value"));
    let figure = |(rest, value): (&str, &str)| {
        let head = rest.split('>').next().unwrap();
        (attribute(head, "data-at"), attribute(head, value).parse().unwrap())
    };
    elements.chain(in_pictures).map(figure).collect()
}

#[track_caller]
fn check(line: &str, dir: &Path, least: usize) -> (String, Value) {
    let document = run(&format!("{line} --report {{}}/page.html --json"), dir).good().json();
    let page = fs::read_to_string(dir.join("page.html")).unwrap();
    let found = figures(&page);
    assert!(found.len() >= least, "{line}: only {} figures", found.len());
    for (at, value) in found {
        assert_eq!(document.pointer(&at).and_then(Value::as_f64), Some(value), "{line}: {at}");
    }
    for outside in ["http://", "https://", "<script", "<link", "@import", "url("] {
        // The name of SVG's own space is no address that anything is fetched from.
        let text = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains(outside), "{line}: the page needs {outside}");
    }
    (page, document)
}

#[test]
fn figures_on_pages_are_those_of_json() {
    let dir = scratch();
    let dir = dir.path();
    let artifact = packed().display().to_string();
    let (page, _) = check(&format!("inspect {artifact} --by role"), dir, 40);
    assert!(page.contains("Depth against storage") && page.contains("tiepack inspect"), "its pictures and its command");
    check("inspect MODEL", dir, 40);
    let (page, document) =
        check("pack MODEL -o {}/a.tiepack --cap 60kB --statistics none --effort fast --val-rows 2", dir, 40);
    let kl = document["verdict"]["evaluation"]["cost"]["divergence"]["mean"]["value"].as_f64().unwrap();
    assert!(page.contains(&format!("{kl:.4}")), "{kl} as a person reads it");
    check(&format!("diff {artifact} {{}}/a.tiepack --weights"), dir, 30);
    let (page, _) = check("inspect {}/a.tiepack --indices", dir, 100);
    assert!(page.contains("What the bits are worth") && page.contains("entropy of an index"));
    fs::write(dir.join("peers.json"), r#"[{"packer": "another <one>", "bytes": 70000, "kl": 0.5}]"#).unwrap();
    let line = "frontier MODEL --caps 50kB,60kB,500 --statistics none --effort fast --val-rows 1 --peers {}/peers.json";
    let (page, _) = check(line, dir, 12);
    assert!(page.contains("<li>another &lt;one&gt;</li>") && page.contains("does not fit"));
}

#[test]
fn pictures_stand_alone_and_places_are_checked_first() {
    let dir = scratch();
    run("inspect MODEL --svg {}/a.svg", dir.path()).good();
    let svg = fs::read_to_string(dir.path().join("a.svg")).unwrap();
    assert!(svg.starts_with("<svg xmlns=") && svg.trim_end().ends_with("</svg>"), "{}", &svg[..80]);
    assert_eq!(svg.matches("<g ").count(), svg.matches("</g>").count());
    for line in ["inspect MODEL --report {}/no/a.html", "frontier MODEL --caps 60kB --svg {}/no/a.svg"] {
        let refused = run(line, dir.path());
        assert_eq!(refused.code, 1, "{line}");
        assert!(refused.stderr.contains("does not exist") && refused.stderr.contains("create the folder first"));
    }
    // Nothing differs, so there is nothing to draw.
    let refused = run("diff MODEL MODEL --svg {}/b.svg", dir.path());
    assert!(refused.code == 1 && refused.stderr.contains("nothing to draw"), "{}", refused.stderr);
}

/// Links whose names end as pictures' do: those are found by what they are, whatever they are called.
#[cfg(unix)]
#[test]
fn no_link_makes_an_input_an_output() {
    let dir = copy(&[]);
    let at = |name: &str| dir.path().join(name);
    let inputs = ["model.safetensors", "val_000.bin", "config.json", "ties.json", "train_000.bin"];
    fs::copy(packed(), at("a.tiepack")).unwrap();
    fs::write(at("peers.json"), "[]").unwrap();
    fs::write(at("s.py"), "import tiepack").unwrap();
    let link = |from: &str, to: &str| std::os::unix::fs::symlink(at(from), at(to)).unwrap();
    link("model.safetensors", "weights.svg");
    link("train_000.bin", "train.svg");
    link("val_000.bin", "val.html");
    link("config.json", "config.csv");
    link("peers.json", "peers.svg");
    link("a.tiepack", "a.html");
    link("tokenizer.model", "losses.npy");
    fs::hard_link(at("ties.json"), at("ties.html")).unwrap();
    fs::hard_link(at("s.py"), at("out.py")).unwrap();
    fs::create_dir(at("kept")).unwrap();
    link("s.py", "kept/k.safetensors-60000.tiepack");
    fs::write(at("k.safetensors"), fs::read(at("model.safetensors")).unwrap()).unwrap();
    let before: Vec<_> = inputs.map(|name| fs::read(at(name)).unwrap()).into();
    let pack = "pack {} -o {}/out.tiepack --cap 400kB --lossless";
    let told = &mut String::new();
    for line in [
        &format!("{pack} --svg {{}}/weights.svg"),
        &format!("{pack} --report {{}}/val.html"),
        &format!("{pack} --report {{}}/out.html --svg {{}}/../{{name}}/weights.svg"),
        &format!("{pack} --bundle {{}}/s.py"),
        "pack {} -o {}/out.tiepack --cap 60kB --search-log {}/train_000.bin",
        "pack {} -o {}/out.tiepack --cap 60kB --heal-checkpoint {}/val_000.bin",
        "pack {} -o {}/out.tiepack --cap 60kB --search-log {}/l --heal-checkpoint {}/l",
        "eval {} --losses {}/losses.npy",
        "eval {}/a.tiepack --val {}/val_000.bin --losses {}/val_000.bin",
        "inspect {} --report {}/ties.html",
        "inspect {}/a.tiepack --report {}/a.html",
        "inspect {}/a.tiepack --against {} --svg {}/weights.svg",
        "diff {} {}/a.tiepack --report {}/a.html",
        "diff {} {}/a.tiepack --val {}/val_000.bin --report {}/val.html",
        "frontier {} --caps 60kB --csv {}/config.csv",
        "frontier {} --caps 60kB --svg {}/train.svg",
        "frontier {} --caps 60kB --peers {}/peers.json --svg {}/peers.svg",
        "frontier {}/k.safetensors --caps 60kB --include {}/s.py --keep {}/kept --statistics none",
    ] {
        let name = dir.path().file_name().unwrap().to_string_lossy();
        let run = run(&line.replace("{name}", &name), dir.path());
        *told += &format!("$ tiepack {line}\n{}\n", run.told(dir.path())).replace(&*name, "[name]");
        assert!(run.code == 1 && run.stdout.is_empty(), "{line}: {}", run.stderr);
    }
    let after: Vec<_> = inputs.map(|name| fs::read(at(name)).unwrap()).into();
    assert!(before == after && !at("out.tiepack").exists() && !at("out.html").exists());
    insta::assert_snapshot!(told);
}

#[test]
fn a_picture_takes_the_place_of_no_input() {
    let dir = scratch();
    let weights = dir.path().join("model.safetensors");
    std::fs::write(&weights, "weights").unwrap();
    for option in ["--svg", "--report"] {
        let refused = run(&format!("inspect fixtures/pep-tiny {option} {{}}/model.safetensors"), dir.path());
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(refused.stderr.contains("does not end in"), "{}", refused.stderr);
    }
    assert_eq!(std::fs::read(&weights).unwrap(), b"weights");
}
