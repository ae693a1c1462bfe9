//! The minified decoder.c, under sanitizers, side by side with the decoders of this crate: on what encoders write, and on
//! what becomes of it when bytes are changed, cut or made up.

use std::io::Write;
use std::process::{Command, Stdio};

use super::*;
use crate::code::codec::lossless;
use crate::code::entropy::indices::{self, Layout};
use crate::code::entropy::{ensemble, exponents, logarithm, mixing};
use crate::code::grid::trellis::{Odd, Trellis};
use crate::model::Dtype;

/// Reads the tables, then streams until there are no more; writes for each what the decoder says and finds.
const HARNESS: &str = r#"
#include <stdio.h>
#include <stdlib.h>
static int number(void){int x;if(fread(&x,4,1,stdin)!=1)exit(0);return x;}
int main(void){
  static int T[20992];
  if(fread(T,4,20992,stdin)!=20992)return 1;
  for(;;){
    int kind=number(),a=number(),b=number(),c=number(),rows=number(),cols=number(),size=number();
    unsigned char*data=malloc(size?size:1);
    if(fread(data,1,size,stdin)!=(size_t)size)return 1;
    int*E=malloc(4*(rows+cols)+4),*out=calloc((size_t)rows*cols+rows+cols+1,4),*t=calloc(239510,4),bad,n=rows*cols;
    long long io[16]={4,4294967295LL,0,size},*r=calloc(6*rows+2*cols+210,8);
    if(kind==0&&fread(E,4,rows+cols,stdin)!=(size_t)(rows+cols))return 1;
    for(int i=0;i<4;i++)io[2]=io[2]<<8|(i<size?data[i]:0);
    if(kind==0)bad=indices(data,io,T,t,r,rows,cols,E,a,b,c,out);
    else if(kind==1)bad=exponents(data,io,T,t,rows,cols,out),n=rows+cols;
    else bad=lossless(data,io,T,t,r,a,b,rows,cols,out);
    bad=bad||io[0]<size||io[0]>size+8;
    fwrite(&bad,4,1,stdout);
    if(!bad)fwrite(out,4,n,stdout);
    free(data);free(E);free(out);free(t);free(r);
  }
}
"#;

/// What decoder.py makes, from this crate's own tables.
fn tables() -> Vec<i32> {
    let mut t: Vec<i32> = (-2816..=2816).map(|s: i32| mixing::squash(s << 8) as i32).collect();
    t.extend((0..256).map(|m| logarithm::log16(256 + m) - 128));
    t.extend((0..16).map(|k| (65536.0 * (f64::from(k) / 16.0).exp2()).round() as i32));
    t.extend([80, 500].into_iter().flat_map(|start| (0..1024).map(move |n| 5 * 65536 / (n + start))));
    t.extend((-3071..=3071).map(|s| ensemble::squash(s) as i32));
    t.extend((0..4096).map(|p| ensemble::stretch(p << 4)));
    t.extend(PRIORS.iter().flatten().flatten().flatten().map(|s| i32::from(*s)));
    assert_eq!(t.len(), 20_992);
    t
}

struct Case {
    numbers: [i32; 6],
    data: Vec<u8>,
    exponents: Vec<i32>,
    /// What this crate says.
    wanted: Option<Vec<i32>>,
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    /// Whole, changed in a few places, cut, longer, or noise.
    fn damaged(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        match self.below(6) {
            0 => {}
            1 => out.truncate(self.below(out.len() as u64 + 1) as usize),
            2 => out.extend((0..self.below(12)).map(|_| 0)),
            3 => out = (0..self.below(80)).map(|_| self.below(256) as u8).collect(),
            _ => {
                for _ in 0..=self.below(3) {
                    if let Some(n) = (out.len() as u64).checked_sub(1) {
                        out[self.below(n + 1) as usize] ^= 1 << self.below(8);
                    }
                }
            }
        }
        out
    }
}

fn machine(random: &mut Random) -> (Trellis, [i32; 3]) {
    const TURNS: [(usize, i32, i32); 8] =
        [(1, 0, 0), (4, 2, 1), (8, 5, 2), (16, 9, 2), (32, 18, 4), (64, 33, 10), (128, 78, 43), (256, 166, 121)];
    let (states, odd, turn) = TURNS[random.below(8) as usize];
    let plain = random.below(2) as i32;
    let trellis = Trellis::with_states(states).unwrap().odd(if plain == 1 { Odd::Plain } else { Odd::WithZero });
    (trellis, [odd, turn, plain])
}

fn matrix(random: &mut Random) -> Case {
    let (trellis, [odd, turn, plain]) = machine(random);
    let (rows, cols) = (random.below(40) as usize, random.below(24) as usize);
    let exponent = |random: &mut Random| random.below(33) as i16 - 16;
    let row_exp: Vec<i16> = (0..rows).map(|_| exponent(random)).collect();
    let col_exp: Vec<i16> = (0..cols).map(|_| exponent(random) / 6).collect();
    let size = [1, 3, 30, 1 << 27][random.below(4) as usize];
    let q: Vec<i32> = (0..rows * cols).map(|_| random.below(2 * size + 1) as i32 - size as i32).collect();
    let layout = Layout { rows, cols, row_exp: &row_exp, col_exp: &col_exp, trellis: &trellis };
    let data = random.damaged(&indices::encode(&q, &layout));
    let wanted = indices::decode(&data, &layout).map(|q| {
        let mut values = Vec::new();
        for column in q.chunks(rows.max(1)) {
            let mut state = 0;
            for q in column {
                values.push(trellis.value(trellis.grid[state], *q));
                state = usize::from(trellis.next[state][(q & 1) as usize]);
            }
        }
        values
    });
    let exponents = row_exp.iter().chain(&col_exp).map(|e| i32::from(*e)).collect();
    Case { numbers: [0, odd, turn, plain, rows as i32, cols as i32], data, exponents, wanted }
}

fn scales(random: &mut Random) -> Case {
    let mut list = |n: u64| (0..random.below(n)).map(|_| random.below(33) as i16 - 16).collect::<Vec<i16>>();
    let (rows, cols) = (list(60), list(60));
    let data = random.damaged(&exponents::encode(&[&rows, &cols]));
    let wanted = exponents::decode(&data, &[rows.len(), cols.len()])
        .map(|lists| lists.into_iter().flatten().map(i32::from).collect());
    Case { numbers: [1, 0, 0, 0, rows.len() as i32, cols.len() as i32], data, exponents: vec![], wanted }
}

fn exact(random: &mut Random) -> Case {
    let (dtype, fields) =
        [(Dtype::F32, [8, 23]), (Dtype::F16, [5, 10]), (Dtype::Bf16, [8, 7])][random.below(3) as usize];
    let (rows, cols) = (1 + random.below(12) as usize, 1 + random.below(12) as usize);
    let scale = [1.0, 1e-3, 0.0, 1e4][random.below(4) as usize];
    let value = |random: &mut Random| dtype.round(scale * (random.below(2001) as f64 - 1000.0) / 1000.0);
    let values: Vec<f32> = (0..rows * cols).map(|_| value(random)).collect();
    let shape = [rows, cols];
    let data = random.damaged(&lossless::encode_group(&[(&values, &shape)], dtype).unwrap());
    // A stream too short for its values is refused before it is decoded: by decoder.py there.
    let wanted = lossless::decode_group(&data, &[&shape], dtype).ok().map(|tensors| {
        let word = |v: &f32| match dtype {
            Dtype::F32 => v.to_bits() as i32,
            Dtype::F16 => i32::from(half::f16::from_f32(*v).to_bits()),
            Dtype::Bf16 => (v.to_bits() >> 16) as i32,
        };
        tensors[0].iter().map(word).collect()
    });
    Case { numbers: [2, fields[0], fields[1], 0, rows as i32, cols as i32], data, exponents: vec![], wanted }
}

/// Compiles the minified decoder with the harness and runs it over `cases`.
fn side_by_side(cases: &[Case]) {
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("decoder.c"), folder.path().join("decoder"));
    std::fs::write(&source, minify::c(DECODER_C) + HARNESS).unwrap();
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let flags = ["-std=c99", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-o"];
    let compiled = Command::new(compiler).args(flags).arg(&program).arg(&source).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let bytes = |numbers: &[i32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    let mut input = bytes(&tables());
    for case in cases {
        input.extend(bytes(&case.numbers));
        input.extend(bytes(&[case.data.len() as i32]));
        input.extend(&case.data);
        input.extend(bytes(&case.exponents));
    }
    let mut child =
        Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = feeder.join().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut found = output.stdout.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()));
    let mut refused = 0;
    for (i, Case { numbers, wanted, .. }) in cases.iter().enumerate() {
        let bad = found.next().expect("an answer for every case");
        assert_eq!(bad != 0, wanted.is_none(), "case {i}: {numbers:?}: C refuses {bad}, Rust {}", wanted.is_none());
        refused += bad;
        for (at, value) in wanted.iter().flatten().enumerate() {
            let found = found.next().expect("a value for every value");
            // Of 16-bit types decoder.py keeps 16 bits; and a conversion may make a silent NaN of a signalling one.
            let bits = if numbers[0] == 2 && numbers[2] < 23 { found & 0xffff } else { found };
            let nan = numbers[0] == 2 && numbers[2] == 10 && value & 0x7c00 == 0x7c00 && bits | 0x200 == *value;
            assert!(bits == *value || nan, "case {i}: {numbers:?}, value {at}: {found}, not {value}");
        }
    }
    assert!(found.next().is_none());
    assert!(
        refused as usize > cases.len() / 5 && (refused as usize) < cases.len(),
        "{refused} of {} refused",
        cases.len()
    );
}

fn cases(n: u64, seed: u64) -> Vec<Case> {
    let mut random = Random(seed);
    (0..n)
        .map(|i| match i % 4 {
            0 => scales(&mut random),
            1 => exact(&mut random),
            _ => matrix(&mut random),
        })
        .collect()
}

#[test]
fn the_c_decoder_agrees_on_sound_and_damaged_streams() {
    side_by_side(&cases(600, 1));
}

/// TIEPACK_FUZZ is the number of minutes.
#[test]
#[ignore = "as long as TIEPACK_FUZZ says, in minutes"]
fn the_c_decoder_agrees_for_an_hour() {
    let minutes: f64 = std::env::var("TIEPACK_FUZZ").ok().and_then(|m| m.parse().ok()).unwrap_or(60.0);
    let (start, mut seed, mut done) = (std::time::Instant::now(), 2, 0);
    while start.elapsed().as_secs_f64() < 60.0 * minutes {
        side_by_side(&cases(5000, seed));
        (seed, done) = (seed + 1, done + 5000);
    }
    println!("{done} streams");
}

// The indices are those of the sums in run.py.
#[allow(clippy::needless_range_loop)]
#[test]
fn shapes_come_back_as_run_py_sums_them() {
    let packed = shapes();
    let mut table = [[[[0i8; BITS]; 2]; NODES]; 2];
    let mut at = packed.iter();
    for t in 0..2 {
        for bit in 0..BITS {
            for grid in 0..2 {
                let mut sum = 0i8;
                for node in 0..NODES {
                    sum = sum.wrapping_add(*at.next().unwrap() as i8);
                    table[t][node][grid][bit] = if t == 0 { sum } else { sum.wrapping_add(table[0][node][grid][bit]) };
                }
            }
        }
    }
    assert_eq!(table, PRIORS);
}
