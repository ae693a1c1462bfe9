//! Makes token shards from text: a tokenizer, and documents split into training, calibration and validation.
//!
//!     cargo run --release --example prepare_data -- OUT FILE… [--vocab 1024] [--tokenizer tokenizer.json] [--split-on TEXT]
//!
//! Every FILE is a document, or several with `--split-on`. A document's own hash says which part it belongs to, so the same
//! text is never in two of them, whatever else is added later. The tokenizer, a byte-level BPE, is learned from the training
//! part alone. Writes `train_000.bin`, `calib_000.bin` and `val_000.bin` as the challenge has them, and `tokenizer.json`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use tiepack::error::{Error, Result};
use tiepack::save::save;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

/// Make token shards from text
#[derive(Parser, Debug)]
struct Args {
    /// Folder to write (made if missing)
    out: PathBuf,
    /// UTF-8 text
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Token ids of a new tokenizer, the 256 bytes and the mark among them
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(257..=65_536))]
    vocab: u32,
    /// Use this tokenizer.json in place of a new one
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Token that every document begins with
    #[arg(long, default_value = "<|document|>")]
    mark: String,
    /// Text between two documents of a file
    #[arg(long)]
    split_on: Option<String>,
    /// One document in so many is for validation
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..))]
    val: u64,
    /// One of the others in so many is for calibration
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..))]
    calib: u64,
}

const PARTS: [&str; 3] = ["train", "calib", "val"];

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(told) => print!("{told}"),
        Err(error) => {
            eprintln!("error: {error}");
            error.hint.iter().for_each(|hint| eprintln!("hint: {hint}"));
            return ExitCode::from(error.exit_code());
        }
    }
    ExitCode::SUCCESS
}

fn run(args: &Args) -> Result<String> {
    let mut parts: [Vec<String>; 3] = Default::default();
    for path in &args.files {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let documents = match args.split_on.as_deref().filter(|mark| !mark.is_empty()) {
            Some(mark) => text.split(mark).map(String::from).collect(),
            None => vec![text],
        };
        for document in documents.into_iter().filter(|text| !text.trim().is_empty()) {
            parts[part(&document, args)].push(document);
        }
    }
    if let Some(empty) = (0..3).find(|p| parts[*p].is_empty()) {
        let count = parts.iter().map(Vec::len).sum::<usize>();
        return Err(Error::input(format!("{count} documents, and none of them is in {}", PARTS[empty]))
            .hint("give more documents, cut files with --split-on, or lower --val or --calib"));
    }
    let tokenizer = match &args.tokenizer {
        Some(path) => Tokenizer::from_file(path).map_err(|e| Error::input(format!("{}: {e}", path.display())))?,
        None => learn(&parts[0], args)?,
    };
    let (mark, ids) = (tokenizer.token_to_id(&args.mark), tokenizer.get_vocab_size(true));
    let mark = mark.ok_or_else(|| {
        Error::input(format!("the tokenizer has no token {:?}", args.mark)).hint("name its own with --mark")
    })?;
    if ids > 1 << 16 {
        return Err(Error::input(format!("the tokenizer has {ids} ids, shards hold 65,536")));
    }
    std::fs::create_dir_all(&args.out).map_err(|e| Error::io("make", &args.out, e))?;
    let json = tokenizer.to_string(true).map_err(|e| Error::compute(format!("no tokenizer.json: {e}")))?;
    save(&args.out.join("tokenizer.json"), json.as_bytes())?;
    let mut told = format!("{ids} token ids\n");
    for (name, documents) in PARTS.iter().zip(&parts) {
        let (mut tokens, mut bytes) = (Vec::new(), 0);
        for document in documents {
            let encoded = tokenizer
                .encode(document.as_str(), false)
                .map_err(|e| Error::compute(format!("cannot encode: {e}")))?;
            tokens.push(mark as u16);
            tokens.extend(encoded.get_ids().iter().map(|id| *id as u16));
            bytes += document.len();
        }
        shard(&args.out.join(format!("{name}_000.bin")), &tokens)?;
        let (count, n) = (documents.len(), tokens.len());
        told += &format!("{name}: {count} documents, {n} tokens, {:.3} bytes a token\n", bytes as f64 / n as f64);
    }
    Ok(told)
}

/// Which part a document belongs to, by its hash.
fn part(document: &str, args: &Args) -> usize {
    let hash = blake3::hash(document.as_bytes());
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[at + i]));
    match (number(0) % args.val, number(8) % args.calib) {
        (0, _) => 2,
        (_, 0) => 1,
        _ => 0,
    }
}

/// A byte-level BPE.
fn learn(documents: &[String], args: &Args) -> Result<Tokenizer> {
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(args.vocab as usize)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from(args.mark.as_str(), true)])
        .build()
        .into();
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let failed = |e: tokenizers::Error| Error::compute(format!("no tokenizer could be learned: {e}"));
    tokenizer.train(&mut trainer, documents.iter()).map_err(failed)?;
    Ok(tokenizer)
}

fn shard(path: &Path, tokens: &[u16]) -> Result<()> {
    let count =
        i32::try_from(tokens.len()).map_err(|_| Error::input(format!("{}: too many tokens", path.display())))?;
    let mut header = [0i32; 256];
    header[..3].copy_from_slice(&[20_240_520, 1, count]);
    let bytes = header.iter().flat_map(|v| v.to_le_bytes()).chain(tokens.iter().flat_map(|t| t.to_le_bytes()));
    save(path, &bytes.collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiepack::ingest::{Shard, TokenBytes};

    #[test]
    fn text_becomes_shards_whose_bytes_add_up() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let words =
            |line: String| -> Vec<String> { line.split(' ').filter(|w| !w.is_empty()).map(String::from).collect() };
        let run = |line: &str, out: &Path| {
            super::run(&Args::parse_from(words(format!(
                "prepare_data {} README.md CHANGELOG.md {line}",
                out.display()
            ))))
        };
        let told = run("--split-on \n --vocab 300 --val 4 --calib 4", &out).unwrap();
        assert!(told.starts_with("300 token ids\ntrain: "), "{told}");
        let table = TokenBytes::of_model(&out.join("tokenizer.json"), 300).unwrap();
        let again = dir.path().join("again");
        run("--split-on \n --vocab 300 --val 4 --calib 4", &again).unwrap();
        let mut bytes = 0;
        for name in PARTS.map(|part| format!("{part}_000.bin")) {
            let tokens = Shard::read(&out.join(&name)).unwrap().tokens;
            bytes += tokens.windows(2).map(|w| table.bytes_of(w[0], w[1]) as usize).sum::<usize>();
            assert_eq!(std::fs::read(out.join(&name)).unwrap(), std::fs::read(again.join(&name)).unwrap());
        }
        let text = ["README.md", "CHANGELOG.md"].map(|file| std::fs::read_to_string(file).unwrap()).concat();
        let lines = text.split('\n').filter(|line| !line.trim().is_empty()).map(str::len).sum::<usize>();
        assert_eq!(bytes, lines);

        let loaded = format!("--split-on \n --val 4 --calib 4 --tokenizer {}", out.join("tokenizer.json").display());
        assert!(run(&loaded, &again).unwrap().starts_with("300 token ids"));
        assert!(run(&format!("{loaded} --mark <s>"), &again).unwrap_err().message.contains("no token \"<s>\""));
        assert!(run("", &out).unwrap_err().message.contains("2 documents, and none of them is in"));
    }
}
