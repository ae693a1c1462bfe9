"""Holds `tiepack tokens` against the tokenizers package on a large vocabulary: ids, seconds, peak memory.

    cargo build --release
    python examples/tokens.py target/release/tiepack TEXT… [--tokenizer tokenizer.json] [--vocab 150000]

Needs tokenizers and numpy. Without --tokenizer a byte-level BPE is trained on the texts, which takes some minutes for 150,000 pieces and
wants 50 MB of varied text.
"""
import argparse
import pathlib
import resource
import subprocess
import tempfile
import time

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

# Qwen's and, but for the digits, Llama 3's.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def learn(texts, vocab):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train([str(path) for path in texts], trainer)
    return tokenizer


parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("tiepack", type=pathlib.Path)
parser.add_argument("texts", nargs="+", type=pathlib.Path)
parser.add_argument("--tokenizer", type=pathlib.Path)
parser.add_argument("--vocab", type=int, default=150_000)
args = parser.parse_args()

with tempfile.TemporaryDirectory() as folder:
    path, shard = args.tokenizer or pathlib.Path(folder) / "tokenizer.json", pathlib.Path(folder) / "out.bin"
    if args.tokenizer is None:
        learn(args.texts, args.vocab).save(str(path))
    started = time.time()
    subprocess.run([args.tiepack, "tokens", *args.texts, "-o", shard, "--tokenizer", path, "--quiet"], check=True)
    seconds, peak = time.time() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    tokenizer = Tokenizer.from_file(str(path))
    body = shard.read_bytes()
    magic = int.from_bytes(body[:4], "little")
    found = np.frombuffer(body[1024:], "<u2" if magic == 20240520 else "<u4")
    end, wanted = tokenizer.token_to_id("<|endoftext|>"), []
    for i, text in enumerate(args.texts):
        # Not read_text, which makes one kind of line ends of all.
        ids = tokenizer.encode(text.read_bytes().decode(), add_special_tokens=True).ids
        wanted += ([end] if i else []) + ids
    size = sum(text.stat().st_size for text in args.texts)
    assert np.array_equal(found, wanted), "the tokens differ"
    print(f"{tokenizer.get_vocab_size():,} pieces, {size:,} bytes of text: {len(found):,} tokens, all equal")
    print(f"tiepack took {seconds:.1f} s and {peak} MiB at most")
