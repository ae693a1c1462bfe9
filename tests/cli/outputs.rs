//! What stands where an output is to go gives way only if tiepack wrote it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::{copy, run};

const GOLDEN: &str = "fixtures/golden/v1-quantized.tiepack";
const LOSSLESS: &str = "--cap 400kB --lossless --no-eval";

/// Runs a command whose output is there: refused while that is somebody's, replaced with `--force`, and by its like without.
#[track_caller]
fn gives_way_to_its_like(line: &str, output: &Path, dir: &Path) {
    refused(line, output, dir);
    // A page tells the command line.
    let there = || String::from_utf8_lossy(&fs::read(output).unwrap()).replace(" --force", "");
    run(&format!("{line} --force"), dir).good();
    let wrote = there();
    run(line, dir).good();
    assert!(there() == wrote, "{line}");
    fs::write(output, b"").unwrap();
    run(line, dir).good();
    assert!(there() == wrote, "{line}: a file of no bytes holds nothing to lose");
}

#[track_caller]
fn refused(line: &str, output: &Path, dir: &Path) {
    fs::write(output, "years of work\n").unwrap();
    let there = || fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<BTreeSet<_>>();
    let before = there();
    let refused = run(line, dir);
    assert_eq!(refused.code, 1, "{line}: {}", refused.stderr);
    assert!(refused.stderr.contains(&*output.to_string_lossy()), "{line}: {}", refused.stderr);
    assert!(refused.stderr.contains("--force") && refused.stdout.is_empty(), "{line}: {}", refused.stderr);
    assert_eq!(fs::read(output).unwrap(), b"years of work\n", "{line}");
    assert_eq!(there(), before, "{line}: nothing else is written");
}

#[test]
fn a_bundle_beside_the_artifact_replaces_no_source() {
    let dir = copy(&["train_000.bin"]);
    let dir = dir.path();
    fs::write(dir.join("run.py"), "import tiepack\nprint(len(tiepack.bundled()))\n").unwrap();
    let line = format!("pack {{}} -o {{}}/model.tiepack {LOSSLESS} --bundle {{}}/run.py");
    gives_way_to_its_like(&line, &dir.join("model.py"), dir);
}

#[test]
fn whatever_pack_writes_replaces_its_like_only() {
    let dir = copy(&[]);
    let dir = dir.path();
    let pack = format!("pack {{}} -o {{}}/a.tiepack {LOSSLESS}");
    gives_way_to_its_like(&pack, &dir.join("a.tiepack"), dir);
    gives_way_to_its_like(&format!("{pack} --svg {{}}/a.svg"), &dir.join("a.svg"), dir);
    refused(&format!("{pack} --report {{}}/a.html"), &dir.join("a.html"), dir);
    refused(&format!("{pack} --write-plan {{}}/plan.json"), &dir.join("plan.json"), dir);
    refused(&format!("{pack} --heal-checkpoint {{}}/state"), &dir.join("state"), dir);
    refused("pack {} -o {}/a.tiepack --cap 90kB --search-log {}/log.jsonl", &dir.join("log.jsonl"), dir);
    refused(&format!("{pack} --evaluator true"), &dir.join("a.tiepack.unjudged"), dir);
    // An artifact is no picture, and nobody can tell who wrote a plan.
    fs::copy(dir.join("a.tiepack"), dir.join("b.svg")).unwrap();
    let wrong = run(&format!("{pack} --svg {{}}/b.svg"), dir);
    assert!(wrong.code == 1 && wrong.stderr.contains("no picture that tiepack wrote"), "{}", wrong.stderr);
    fs::remove_file(dir.join("plan.json")).unwrap();
    run(&format!("{pack} --write-plan {{}}/plan.json"), dir).good();
    let again = run(&format!("{pack} --write-plan {{}}/plan.json"), dir);
    assert!(again.code == 1 && again.stderr.contains("already there"), "{}", again.stderr);
}

#[test]
fn other_commands_replace_their_like_only() {
    let dir = copy(&[]);
    let dir = dir.path();
    fs::write(dir.join("run.py"), "import tiepack\nprint(len(tiepack.bundled()))\n").unwrap();
    let path = |name: &str| dir.join(name);
    gives_way_to_its_like(&format!("inspect {GOLDEN} --report {{}}/page.html"), &path("page.html"), dir);
    gives_way_to_its_like(&format!("inspect {GOLDEN} --svg {{}}/page.svg"), &path("page.svg"), dir);
    refused(&format!("diff {GOLDEN} {{}} --report {{}}/diff.html"), &path("diff.html"), dir);
    let frontier = "frontier {} --caps 400kB --statistics none --effort fast --val-rows 1 --keep {}/kept";
    gives_way_to_its_like(&format!("{frontier} --csv {{}}/f.csv"), &path("f.csv"), dir);
    refused(frontier, &path("kept").join(format!("{}-400000.tiepack", dir.file_name().unwrap().display())), dir);
    refused("eval {} --val-rows 1 --losses {}/l.npy", &path("l.npy"), dir);
    refused("config {} -o {}/other.json", &path("other.json"), dir);
    let forced = run("config {} -o {}/config.json --force", dir);
    assert!(forced.code == 1 && forced.stderr.contains("one of the inputs"), "{}", forced.stderr);
    fs::create_dir(path("man")).unwrap();
    gives_way_to_its_like("man -o {}/man", &path("man/tiepack-pack.1"), dir);
    refused(&format!("unpack {GOLDEN} -o {{}}/u.safetensors"), &path("u.safetensors"), dir);
}

#[test]
fn bundles_replace_bundles_only() {
    let dir = copy(&[]);
    let dir = dir.path();
    fs::write(dir.join("run.py"), "import tiepack\nprint(len(tiepack.bundled()))\n").unwrap();
    let line = format!("bundle {GOLDEN} --script {{}}/run.py -o {{}}");
    for form in ["", " --decoder import"] {
        gives_way_to_its_like(&format!("{line}/one.py{form}"), &dir.join("one.py"), dir);
    }
    let apart = format!("{line}/apart.py --apart");
    refused(&apart, &dir.join("apart.py"), dir);
    run(&format!("{apart} --force"), dir).good();
    run(&apart, dir).good();
    gives_way_to_its_like(&apart, &dir.join("weights.bin"), dir);
    // The weights of another bundle in the same folder are not this one's to replace.
    let other = run(&format!("{line}/other.py --apart"), dir);
    assert!(other.code == 1 && other.stderr.contains("weights.bin"), "{}", other.stderr);
    refused(&format!("{line}/imports.py --decoder import"), &dir.join("requirements.txt"), dir);
    run(&format!("{line}/imports.py --decoder import --force"), dir).good();
    assert!(fs::read_to_string(dir.join("requirements.txt")).unwrap().starts_with("tiepack=="));
}
