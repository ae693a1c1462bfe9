"""Commands, artifacts and errors through Python, against the files of the repository."""
import json
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
    artifact = tiepack.Artifact(path)
    assert artifact.root == root.hex()
    for name, tensor in wanted.items():
        assert artifact.hashes[artifact.names[name]] == reader.tensor_hash(np.asarray(tensor, "<f4")).hex()
    found = artifact.numpy()
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert np.asarray(found[name], "<f4").tobytes() == np.ascontiguousarray(tensor, "<f4").tobytes(), name
    for one in wanted:
        for other in wanted:
            assert (found[one] is found[other]) == (wanted[one] is wanted[other])


@pytest.mark.parametrize("given, wanted", [
    ("x.bin", ["--val=x.bin"]),
    (pathlib.Path("x.bin"), ["--val=x.bin"]),
    (b"x.bin", ["--val=x.bin"]),
    ([], []),
    (None, []),
    (("x.bin", pathlib.Path("y.bin")), ["--val=x.bin", "--val=y.bin"]),
    ((name for name in ("x.bin", "y.bin")), ["--val=x.bin", "--val=y.bin"]),
], ids=str)
def test_one_file_or_several(given, wanted):
    assert tiepack._arguments("pack", ["model"], {"val": given}) == ["tiepack", "pack", "--json", *wanted, "--", "model"]


def test_a_single_shard_is_one_file(tmp_path):
    options = dict(cap="400kB", lossless=True, val_rows=1)
    for shard in (MODEL / "val_000.bin", str(MODEL / "val_000.bin"), [MODEL / "val_000.bin"]):
        report = tiepack.pack(MODEL, tmp_path / "a.tiepack", val=shard, include=MODEL / "ties.json", **options)
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
