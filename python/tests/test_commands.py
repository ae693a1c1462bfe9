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
    found = artifact.numpy()
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert np.asarray(found[name], "<f4").tobytes() == np.ascontiguousarray(tensor, "<f4").tobytes(), name
    for one in wanted:
        for other in wanted:
            assert (found[one] is found[other]) == (wanted[one] is wanted[other])


def test_reports_are_those_of_json(tmp_path):
    report = tiepack.pack(MODEL, tmp_path / "exact.tiepack", cap="400kB", lossless=True, no_eval=True)
    assert report["command"] == "pack" and report["verdict"]["budget"]["cap"] == 400_000
    assert tiepack.inspect(tmp_path / "exact.tiepack")["bytes"] == (tmp_path / "exact.tiepack").stat().st_size
    verified = tiepack.verify(tmp_path / "exact.tiepack", against=MODEL, val_rows=2)
    assert verified["verdict"]["against"]["identical"] == verified["verdict"]["against"]["tensors"]
    assert tiepack.Artifact(tmp_path / "exact.tiepack").layout()["kind"] == "artifact"
    run = subprocess.run([sys.executable, "-m", "tiepack", "inspect", str(tmp_path / "exact.tiepack"), "--json"], capture_output=True)
    assert json.loads(run.stdout)["command"] == "inspect"


def test_errors_have_the_words_and_fields_of_json(tmp_path):
    with pytest.raises(tiepack.CapError) as told:
        tiepack.pack(MODEL, tmp_path / "x.tiepack", cap=10_000, lossless=True, no_eval=True)
    run = subprocess.run(
        [sys.executable, "-m", "tiepack", "pack", str(MODEL), "-o", str(tmp_path / "x.tiepack"), "--cap", "10000", "--lossless",
         "--no-eval", "--json"], capture_output=True)
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


def test_ctrl_c_ends_a_pack_and_leaves_nothing(tmp_path):
    threading.Timer(1.0, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        tiepack.pack(MODEL, tmp_path / "x.tiepack", cap="100kB", no_cache=True, effort="max")
    assert list(tmp_path.iterdir()) == []
