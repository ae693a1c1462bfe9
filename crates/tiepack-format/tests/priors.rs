//! The trained table that the format is built on is written twice: for the coder, and beside the specification.

use serde_json::Value;

#[test]
fn the_table_of_the_specification_is_that_of_the_coder() {
    let written: Value = serde_json::from_str(include_str!("../../../formats/shape.json")).unwrap();
    let mut numbers = Vec::new();
    for (odd, nodes) in written.as_array().unwrap().iter().enumerate() {
        assert_eq!(nodes.as_array().unwrap().len(), tiepack_format::entropy::indices::NODES, "table {odd}");
        for grids in nodes.as_array().unwrap() {
            assert_eq!(grids.as_array().unwrap().len(), 2);
            for bits in grids.as_array().unwrap() {
                assert_eq!(bits.as_array().unwrap().len(), tiepack_format::entropy::indices::BITS);
                numbers.extend(bits.as_array().unwrap().iter().map(|n| n.as_i64().unwrap()));
            }
        }
    }
    // The coder's table is private: its numbers are read from the source, in order.
    let source = include_str!("../src/entropy/indices/priors.rs");
    let table = source.split("PRIORS: ").nth(1).and_then(|s| s.split_once("= [")).unwrap().1;
    let signs = table.split(|c: char| c != '-' && !c.is_ascii_digit()).filter(|word| !word.is_empty());
    let coder: Vec<i64> = signs.map(|word| word.parse().unwrap()).collect();
    assert_eq!(coder, numbers);
}
