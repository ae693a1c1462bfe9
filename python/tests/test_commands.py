"""Commands, artifacts and errors through Python, against the files of the repository."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import reader

import tiepack
from conftest import ROOT

GOLDEN = ROOT / "fixtures" / "golden"
MODEL = ROOT / "fixtures" / "pep-tiny"
ARTIFACTS = sorted(GOLDEN.glob("*.tiepack"))


@pytest.mark.parametrize("path", ARTIFACTS, ids=lambda path: path.stem)
def test_tensors_are_those_of_the_reference_reader(path):
    wanted, root, _ = reader.decode(path.read_bytes())
    kept = {name: kind for name, kind, _ in reader.parse(path.read_bytes())[5]}
    artifact = tiepack.Artifact(path)
    assert artifact.root == root.hex()
    found = artifact.numpy()
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        told = artifact.hashes[artifact.names[name]]
        if name not in kept:
            assert told == reader.tensor_hash(np.asarray(tensor, "<f4")).hex()
            assert np.asarray(found[name], "<f4").tobytes() == np.ascontiguousarray(tensor, "<f4").tobytes(), name
        elif kept[name] == reader.BF16:
            assert told is None and (np.asarray(found[name], "<f4").view("<u4") >> 16).tolist() == tensor.tolist()
        else:
            assert told is None and found[name].dtype == tensor.dtype, name
            assert found[name].shape == tensor.shape and found[name].tobytes() == tensor.tobytes(), name
    for one in wanted:
        for other in wanted:
            assert (found[one] is found[other]) == (wanted[one] is wanted[other])


def test_names_and_types_are_those_of_the_file_that_was_packed(tmp_path):
    # With a counter, a mask and a list of no length, and names that are not in the order of the file.
    given = {
        "net.second.weight": np.arange(64 * 64, dtype="<f4").reshape(64, 64) % 7, "net.first.weight": np.eye(64, dtype="<f4"),
        "net.seen": np.array(2**62 + 1, "<i8"), "net.allowed": np.array([True, False, True]), "net.few": np.array([-3, 5], "<i2"),
        "net.none": np.zeros((0, 3), "u1"),
    }
    codes = {"float32": "F32", "int64": "I64", "bool": "BOOL", "int16": "I16", "uint8": "U8"}
    head, body = {}, b""
    for name, array in given.items():
        head[name] = {"dtype": codes[array.dtype.name], "shape": array.shape, "data_offsets": [len(body), len(body) + array.nbytes]}
        body += array.tobytes()
    head = json.dumps(head).encode()
    (tmp_path / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + body)
    tiepack.pack(tmp_path / "model.safetensors", tmp_path / "x.tiepack", cap="20kB", lossless=True, no_eval=True)
    found = tiepack.load(tmp_path / "x.tiepack", framework="numpy")
    assert found.keys() == given.keys()
    for name, array in given.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


class Somewhere:
    """A path of one's own."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return os.fspath(self.path)


@pytest.mark.parametrize("given, wanted", [
    ("x.bin", ["--val=x.bin"]),
    (pathlib.Path("x.bin"), ["--val=x.bin"]),
    (b"x.bin", ["--val=x.bin"]),
    (Somewhere("x.bin"), ["--val=x.bin"]),
    ([Somewhere(b"x.bin"), "y.bin"], ["--val=x.bin", "--val=y.bin"]),
    ([], []),
    (None, []),
    (("x.bin", pathlib.Path("y.bin")), ["--val=x.bin", "--val=y.bin"]),
    ((name for name in ("x.bin", "y.bin")), ["--val=x.bin", "--val=y.bin"]),
], ids=str)
def test_one_file_or_several(given, wanted):
    assert tiepack._arguments("pack", ["model"], {"val": given}) == ["tiepack", "pack", "--json", *wanted, "--", "model"]


def test_a_single_shard_is_one_file(tmp_path):
    options = dict(cap="400kB", lossless=True, val_rows=1)
    for shard in (MODEL / "val_000.bin", str(MODEL / "val_000.bin"), [Somewhere(MODEL / "val_000.bin")]):
        report = tiepack.pack(Somewhere(MODEL), tmp_path / "a.tiepack", val=shard, include=MODEL / "ties.json", **options)
        assert report["verdict"]["evaluation"]["rows"] == 1
        assert report["verdict"]["budget"]["includes"] == (MODEL / "ties.json").stat().st_size


def test_files_of_others_are_replaced_on_demand_only(tmp_path):
    script, output = tmp_path / "train.py", tmp_path / "model.py"
    script.write_text("import tiepack\n")
    output.write_text("years = 'of work'\n")
    with pytest.raises(tiepack.InputError) as refused:
        tiepack.bundle(GOLDEN / "v1-quantized.tiepack", script, output)
    assert "--force" in refused.value.hint and output.read_text() == "years = 'of work'\n"
    tiepack.bundle(GOLDEN / "v1-quantized.tiepack", script, output, force=True)
    taken = tmp_path / "taken.tiepack"
    taken.write_text("mine")
    with pytest.raises(tiepack.InputError):
        tiepack.pack(MODEL, taken, cap="400kB", lossless=True, no_eval=True)
    tiepack.pack(MODEL, taken, cap="400kB", lossless=True, no_eval=True, force=True)


def test_reports_are_those_of_json(tmp_path):
    report = tiepack.pack(MODEL, tmp_path / "exact.tiepack", cap="400kB", lossless=True, no_eval=True)
    assert report["command"] == "pack" and report["verdict"]["budget"]["cap"] == 400_000
    assert tiepack.inspect(tmp_path / "exact.tiepack")["bytes"] == (tmp_path / "exact.tiepack").stat().st_size
    verified = tiepack.verify(tmp_path / "exact.tiepack", against=MODEL, val_rows=2)
    assert verified["verdict"]["against"]["identical"] == verified["verdict"]["against"]["tensors"]
    assert tiepack.Artifact(tmp_path / "exact.tiepack").layout()["kind"] == "artifact"
    run = subprocess.run([sys.executable, "-m", "tiepack", "inspect", str(tmp_path / "exact.tiepack"), "--json"], capture_output=True, cwd=tmp_path)
    assert json.loads(run.stdout)["command"] == "inspect"


def test_errors_have_the_words_and_fields_of_json(tmp_path):
    with pytest.raises(tiepack.CapError) as told:
        tiepack.pack(MODEL, tmp_path / "x.tiepack", cap=10_000, lossless=True, no_eval=True)
    run = subprocess.run(
        [sys.executable, "-m", "tiepack", "pack", str(MODEL), "-o", str(tmp_path / "x.tiepack"), "--cap", "10000", "--lossless",
         "--no-eval", "--json"], capture_output=True, cwd=tmp_path)
    error = json.loads(run.stdout)["error"]
    e = told.value
    assert (e.kind, e.message, e.hint, e.exit_code) == tuple(error[k] for k in ("kind", "message", "hint", "exit_code"))
    assert run.returncode == e.exit_code == 3
    with pytest.raises(tiepack.UsageError):
        tiepack.inspect(MODEL, no_such_option=3)
    with pytest.raises(tiepack.InputError):
        tiepack.load(tmp_path / "missing.tiepack")
    cut = tmp_path / "cut.tiepack"
    cut.write_bytes(ARTIFACTS[0].read_bytes()[:-1])
    with pytest.raises(tiepack.VerificationError):
        tiepack.load(cut)


def test_text_becomes_a_shard_of_tokens(tmp_path):
    texts = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path, text in zip(texts, ("one", "and two")):
        path.write_text(text)
    made = tiepack.tokens(texts, tmp_path / "x.bin", tokenizer="bytes")
    assert (made["command"], made["files"], made["text_bytes"]) == ("tokens", 2, 10)
    ids = np.fromfile(tmp_path / "x.bin", "<u2", offset=1024)
    assert len(ids) == made["tokens"] and bytes(ids.astype("u1")).replace(b"\0", b"") == b"oneand two"
    one = tiepack.tokens(Somewhere(texts[1]), tmp_path / "y.bin", tokenizer=Somewhere(MODEL / "tokenizer.model"))
    assert one["files"] == 1 and one["vocab"] == 1024
    (tmp_path / "mine.bin").write_text("mine")
    with pytest.raises(tiepack.InputError):
        tiepack.tokens(texts, tmp_path / "mine.bin", tokenizer="bytes")
    tiepack.tokens(texts, tmp_path / "mine.bin", tokenizer="bytes", force=True)


def test_a_configuration_is_recognised(tmp_path):
    (tmp_path / "model.safetensors").write_bytes((MODEL / "model.safetensors").read_bytes())
    report = tiepack.config(tmp_path / "model.safetensors", output=Somewhere(tmp_path / "config.json"))
    own = json.loads((MODEL / "config.json").read_text())
    assert report["command"] == "config" and report["source"] is None
    assert {key: report["config"][key] for key in ("arch", "model_dim", "vocab_size")} == {
        key: own[key] for key in ("arch", "model_dim", "vocab_size")}
    assert json.loads((tmp_path / "config.json").read_text()) == report["config"]


def test_files_are_compared():
    quantized, exact = GOLDEN / "v1-quantized.tiepack", GOLDEN / "v1-lossless.tiepack"
    report = tiepack.diff(quantized, exact, by="role", weights=True)
    assert report["command"] == "diff" and report["different"]
    # That code says a difference, not an error.
    assert tiepack.diff(quantized, exact, exit_code=True)["different"]
    assert not tiepack.diff(exact, exact, exit_code=True)["different"]


def test_a_frontier_has_its_caps(tmp_path):
    report = tiepack.frontier(
        MODEL, caps=["60kB", 100_000], effort="fast", calib_rows=16, val_rows=4, no_cache=True, keep=tmp_path / "kept", csv=tmp_path / "x.csv")
    assert report["command"] == "frontier" and [point["cap"] for point in report["points"]] == [60_000, 100_000]
    assert len(list((tmp_path / "kept").glob("*.tiepack"))) == 2 and len((tmp_path / "x.csv").read_text().splitlines()) == 3
    with pytest.raises(tiepack.UsageError):
        tiepack.frontier(MODEL, caps="60kB", points=3)


BIGRAMS = """
import json, sys
sys.path.insert(0, {formats!r})
import numpy as np, reader
tokens = np.fromfile({tokens!r}, "<u2", offset=1024)[:64 * 128].reshape(64, 128) % 128
logits = reader.read_safetensors(json.loads(sys.stdin.readline())["weights"])["next.weight"].astype("f8")
logits -= np.log(np.exp(logits).sum(1, keepdims=True))
print(json.dumps({{"losses": (-logits[tokens[:, :-1], tokens[:, 1:]].mean(1)).tolist()}}))
"""


def test_a_network_of_ones_own_is_judged_by_a_program_of_ones_own(tmp_path):
    # Bigrams of the training text, 128 kinds of token, by no network that tiepack knows.
    tokens = np.fromfile(MODEL / "train_000.bin", "<u2", offset=1024) % 128
    counts = np.full((128, 128), 0.01)
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    logits = np.log(counts / counts.sum(1, keepdims=True)).astype("<f4")
    head = json.dumps({"next.weight": {"dtype": "F32", "shape": [128, 128], "data_offsets": [0, logits.nbytes]}}).encode()
    (tmp_path / "bigrams.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + logits.tobytes())
    script = BIGRAMS.format(formats=str(ROOT / "formats"), tokens=str(MODEL / "val_000.bin"))
    (tmp_path / "judge.py").write_text(script)
    report = tiepack.pack(
        tmp_path / "bigrams.safetensors", tmp_path / "out.tiepack", cap="9kB", statistics="none", effort="fast",
        evaluator=f"{sys.executable} {tmp_path / 'judge.py'}")
    judged = report["verdict"]["judged"]
    assert judged["rows"] == 64 and 2 < judged["original"] < 6
    assert judged["difference"]["value"] == pytest.approx(judged["packed"] - judged["original"])
    assert abs(judged["difference"]["value"]) < 0.2 and judged["difference"]["standard_error"] < 0.05
    assert "not evaluated" not in json.dumps(report["verdict"]["notes"])
    (tmp_path / "judge.py").write_text("import sys; sys.exit('no tokens here')")
    with pytest.raises(tiepack.InputError, match="no tokens here") as told:
        tiepack.verify(tmp_path / "out.tiepack", evaluator=f"{sys.executable} {tmp_path / 'judge.py'}")
    assert told.value.exit_code == 1


def test_ctrl_c_ends_a_pack_and_leaves_nothing(tmp_path, request):
    # Where the tests were started in the background, Python ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    threading.Timer(1.0, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        tiepack.pack(MODEL, tmp_path / "x.tiepack", cap="100kB", no_cache=True, effort="max")
    assert list(tmp_path.iterdir()) == []
