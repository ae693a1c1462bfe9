"""Bundles, run in a process of their own, and the small decoder beside the reference reader and tiepack itself."""
import os
import pathlib
import random
import re
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import reader

import tiepack
from conftest import ROOT

GOLDEN = ROOT / "fixtures" / "golden"
# With tensors that are no weights, which the small decoder does not give back.
BESIDE = GOLDEN / "v1-beside.tiepack"
ARTIFACTS = sorted(set(GOLDEN.glob("*.tiepack")) - {BESIDE})
PARTS = ROOT / "src" / "bundle"
# What a bundled script does here: says what it got. That the module has no file shows that it is the bundle's own.
SCRIPT = """
import hashlib, sys, tiepack
assert EMBEDDED == (not hasattr(tiepack, "__file__"))
tensors = tiepack.bundled()
for name, tensor in tensors.items() if isinstance(tensors, dict) else enumerate(tensors):
    print(name, hashlib.sha256(tensor.astype("<f4").tobytes()).hexdigest())
"""


def hashes(tensors):
    import hashlib

    return sorted((str(name), hashlib.sha256(np.ascontiguousarray(t, "<f4").tobytes()).hexdigest()) for name, t in tensors)


def run(script, **env):
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env={**os.environ, **env})
    return done.returncode, sorted(tuple(line.split()) for line in done.stdout.splitlines()), done.stderr


def made(path, folder, embedded=True, **options):
    script = folder / "train.py"
    script.write_text(f"EMBEDDED = {embedded}\n" + SCRIPT)
    return tiepack.bundle(path, script, folder / "out.py", **options)


FORMS = [{"form": "zip"}, {"form": "text"}, {"apart": True}]


@pytest.mark.parametrize("form", FORMS, ids=["zip", "text", "apart"])
@pytest.mark.parametrize("path", ARTIFACTS, ids=lambda path: path.stem)
def test_a_bundle_decodes_to_the_same_bits(path, form, tmp_path):
    wanted = hashes(reader.decode(path.read_bytes())[0].items())
    report = made(path, tmp_path, **form)
    sizes = [pathlib.Path(file["path"]).stat().st_size for file in report["files"]]
    assert sizes == [file["bytes"] for file in report["files"]] and sum(sizes) == report["bytes"]["total"]
    code, found, said = run(tmp_path / "out.py")
    assert (code, found, said) == (0, wanted, "")
    # Without a compiler: the same, and it says so.
    code, found, said = run(tmp_path / "out.py", PATH="", CC="")
    assert (code, found) == (0, wanted) and "no C compiler" in said


def test_a_bundle_without_names_has_their_order(tmp_path):
    path = ARTIFACTS[-1]
    tensors = reader.decode(path.read_bytes())[0]
    made(path, tmp_path, nameless=True)
    code, found, _ = run(tmp_path / "out.py")
    assert code == 0 and found == hashes(enumerate(tensors[name] for name in sorted(tensors)))


@pytest.mark.parametrize("form", FORMS, ids=["zip", "text", "apart"])
def test_a_bundle_can_import_its_decoder(form, tmp_path):
    path = ARTIFACTS[-1]
    made(path, tmp_path, embedded=False, decoder="import", **form)
    assert (tmp_path / "requirements.txt").read_text() == f"tiepack=={tiepack.__version__}\n"
    code, found, said = run(tmp_path / "out.py")
    assert code == 0 and found == hashes(reader.decode(path.read_bytes())[0].items()), said


def test_what_is_no_weight_takes_the_whole_decoder(tmp_path):
    with pytest.raises(tiepack.InputError, match="no weights") as told:
        made(BESIDE, tmp_path)
    assert "--decoder import" in told.value.hint
    made(BESIDE, tmp_path, embedded=False, decoder="import")
    code, found, said = run(tmp_path / "out.py")
    tensors = tiepack.load(BESIDE, framework="numpy")
    assert code == 0 and dict(found).keys() == tensors.keys(), said
    for name in ("store", "net.h.2.mixer.weight", "buffers.6.table"):
        assert hashes([(name, tensors[name])])[0] in found


def test_a_list_of_requirements_is_not_replaced(tmp_path):
    (tmp_path / "requirements.txt").write_text("numpy\n")
    with pytest.raises(tiepack.InputError, match="does not name tiepack"):
        made(ARTIFACTS[-1], tmp_path, embedded=False, decoder="import")
    listed = f"numpy\ntiepack=={tiepack.__version__}\n"
    (tmp_path / "requirements.txt").write_text(listed)
    made(ARTIFACTS[-1], tmp_path, embedded=False, decoder="import")
    assert (tmp_path / "requirements.txt").read_text().split() == listed.split()


@pytest.mark.parametrize("form", FORMS, ids=["zip", "text", "apart"])
def test_a_damaged_bundle_says_so_before_it_runs(form, tmp_path):
    made(ARTIFACTS[-1], tmp_path, **form)
    file = tmp_path / ("weights.bin" if "apart" in form else "out.py")
    whole = file.read_bytes()
    # In text the first lines are Python's.
    at = 2000 if form == {"form": "text"} else 900
    for bad in (whole[:at] + (b"B" if whole[at] == 65 else b"A") + whole[at + 1:], whole[:at] + whole[at + 1:]):
        file.write_bytes(bad)
        code, found, said = run(tmp_path / "out.py")
        assert code != 0 and not found and "damaged" in said


def test_a_bundle_must_fit(tmp_path):
    with pytest.raises(tiepack.CapError):
        made(ARTIFACTS[-1], tmp_path, cap=5000)
    assert not (tmp_path / "out.py").exists()


# --- The small decoder's functions ---


def small(kernel):
    """decoder.py as a module, with one of the two kernels."""
    module = types.ModuleType("small")
    sys.modules["small"] = module
    exec(compile((PARTS / "decoder.py").read_text(), "decoder.py", "exec"), module.__dict__)
    module.tables = module.make_tables(np.array(reader.SHAPE).ravel())
    source = re.sub("//.*", "", (PARTS / "decoder.c").read_text())
    module.kernel = getattr(module, kernel)(source)
    return module


def test_tables_are_those_of_the_format():
    tables = small("compiled").tables.tolist()
    assert tables[:5633] == reader.LOGISTIC
    assert tables[5633:5889] == reader.FRACTION
    assert tables[5889:5905] == reader.SIXTEENTHS
    assert tables[7953:14096] == reader.SQUASH
    assert tables[14096:18192] == reader.STRETCH


def sealed(body):
    return body + reader.blake3(body)[:8]


def test_hostile_artifacts_meet_the_same_refusals(tmp_path):
    """Streams are damaged and the file's hashes made to fit: what decodes must be what tiepack decodes, bit for bit.

    TIEPACK_FUZZ is how many minutes to go on.
    """
    compiled, translated, random_ = small("compiled"), small("translated"), random.Random(1)
    end = time.time() + 60 * float(os.environ.get("TIEPACK_FUZZ", 0.05))
    tried = refused = 0
    while time.time() < end or tried < 40:
        path = random_.choice(ARTIFACTS)
        data = path.read_bytes()
        config, names, source, streams, labels, kept, _ = reader.parse(data)
        body = bytearray(data[:-8])
        first = len(body) - 32 - sum(len(s.data) for s in streams)
        for _ in range(random_.randint(1, 3)):
            body[random_.randrange(first, len(body) - 32)] ^= 1 << random_.randrange(8)
        streams = reader.parse(sealed(bytes(body)))[3]
        shapes = {}
        for (_, shape), t in zip(names, source):
            shapes.setdefault(t, shape)
        order = [t for s in streams for t in s.tensors]
        entries = [(s.codec, len(s.tensors), [*s.types, 0][0], order.index(s.needs[0]) if s.needs else -1, len(s.data)) for s in streams]
        blob, answers = b"".join(s.data for s in streams), []
        for module in (compiled, translated) if tried % 20 == 0 else (compiled,):
            try:
                tensors = module.decode(entries, [shapes[t] for t in order], blob)
                answers.append([tensors[order.index(t)].astype("<f4").tobytes() for t in range(len(shapes))])
            except ValueError:
                answers.append(None)
        assert all(answer == answers[0] for answer in answers)
        if answers[0] is not None:
            hashed = [reader.tensor_hash(np.frombuffer(a, "<f4").reshape(shapes[t])) for t, a in enumerate(answers[0])]
            body[-32:] = reader.root_of(hashed, source, names, config, labels, kept)
        file = tmp_path / "hostile.tiepack"
        file.write_bytes(sealed(bytes(body)))
        if answers[0] is None:
            refused += 1
            with pytest.raises(tiepack.VerificationError) as told:
                tiepack.load(file, framework="numpy")
            assert "do not match the hash" not in told.value.message, told.value.message
        else:
            tiepack.load(file, framework="numpy")
        tried += 1
    assert 0 < refused < tried
    print(f"{tried} files, {refused} refused")
