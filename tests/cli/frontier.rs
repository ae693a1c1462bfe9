//! Loss against bytes.

use std::fs;

use crate::{run, scratch};

#[test]
fn every_point_is_the_file_that_a_pack_makes() {
    let dir = scratch();
    let options = "--statistics none --effort fast";
    let line = format!(
        "frontier MODEL --caps 60kB,500,90kB,400kB {options} --val-rows 2 --keep {{}}/kept --csv {{}}/f.csv --json"
    );
    let frontier = run(&line, dir.path()).good().json();
    let points = frontier["points"].as_array().unwrap();
    let caps: Vec<u64> = points.iter().map(|point| point["cap"].as_u64().unwrap()).collect();
    assert_eq!(caps, [500, 60_000, 90_000, 400_000]);
    assert!(points[0]["refusal"].as_str().unwrap().contains("the smallest cap that would do is"), "{}", points[0]);
    let kl: Vec<f64> =
        points[1..].iter().map(|p| p["evaluation"]["cost"]["divergence"]["mean"]["value"].as_f64().unwrap()).collect();
    assert!(kl[0] > kl[1] && kl[1] > kl[2] && kl[2] == 0.0, "the last is exact: {kl:?}");
    assert!(points[1]["bytes_per_millinat"].as_f64() > Some(0.0) && points[3]["bytes_per_millinat"].is_null());
    for cap in [60_000, 400_000] {
        run(&format!("pack MODEL -o {{}}/one.tiepack --cap {cap} {options} --heal off --no-eval"), dir.path()).good();
        let kept = fs::read(dir.path().join(format!("kept/pep-tiny-{cap}.tiepack"))).unwrap();
        assert!(kept == fs::read(dir.path().join("one.tiepack")).unwrap(), "{cap}");
    }
    let csv = fs::read_to_string(dir.path().join("f.csv")).unwrap();
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((lines.len(), lines[1][1], lines[2][0]), (5, "", "60000"));
    assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{csv}");
    assert_eq!(lines[2][3].parse::<f64>().unwrap(), kl[0]);
    // 352,640 weights in all layers, 216,320 of them stored.
    let width = &frontier["width"];
    assert_eq!((width["columns"].as_u64(), width["stored"].as_u64()), (Some(80), Some(216_320)), "{width}");
    assert!(width["widened"].as_u64() > Some(80));
}

#[test]
fn where_no_cap_fits_the_exit_code_says_so() {
    let dir = scratch();
    let line =
        "frontier MODEL --caps 700,500 --statistics none --effort fast --val-rows 1 --csv {}/f.csv --keep {}/kept";
    let refused = run(line, dir.path());
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("the cap is 700") && refused.stderr.contains("smallest cap that would do"));
    assert!(!dir.path().join("f.csv").exists() && fs::read_dir(dir.path().join("kept")).unwrap().next().is_none());
    let json = run(&format!("{line} --json"), dir.path());
    assert_eq!((json.code, &json.json()["error"]["kind"]), (3, &"cap".into()));
}
