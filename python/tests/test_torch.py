"""Curvature by watching PyTorch against tiepack's own, and modules packed and put back."""
import importlib.util
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional

import tiepack  # noqa: E402
import tiepack.torch  # noqa: E402
from conftest import ROOT  # noqa: E402

MODEL = ROOT / "fixtures" / "pep-tiny"
ROWS = 16


@pytest.fixture(scope="module")
def fixture():
    """fixtures/make_fixture.py, whose network knows nothing of tiepack."""
    pytest.importorskip("safetensors")
    spec = importlib.util.spec_from_file_location("make_fixture", ROOT / "fixtures" / "make_fixture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peptiny(fixture, monkeypatch):
    """The fixture's network as a module that gives logits; tied layers use one Parameter."""
    tensors, ties = tiepack.Artifact, json.loads((MODEL / "ties.json").read_text())["copies"]
    from safetensors.torch import load_file

    tensors = load_file(MODEL / "model.safetensors")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.parameters_by_name = {}
            for i, (name, tensor) in enumerate(tensors.items()):
                self.register_parameter(f"p{i}", torch.nn.Parameter(tensor.float()))
                self.parameters_by_name[name] = f"p{i}"
            self.rope = fixture.rope_tables()

        def forward(self, ids):
            found = []
            monkeypatch.setattr(fixture.F, "cross_entropy", lambda logits, targets: found.append(logits))
            p = {name: getattr(self, own) for name, own in self.parameters_by_name.items()}
            fixture.mean_loss(p, ties, self.rope, ids, ids)
            monkeypatch.undo()
            return found[0].reshape(*ids.shape, -1)

    return Net()


def test_statistics_are_those_of_tiepack(fixture, monkeypatch, tmp_path):
    from safetensors.numpy import load_file

    tiepack.pack(MODEL, tmp_path / "x.tiepack", cap="60kB", calib_rows=ROWS, cache=tmp_path, effort="fast", no_eval=True)
    native = load_file(next(tmp_path.glob("*.statistics.safetensors")))
    net = peptiny(fixture, monkeypatch)
    tokens = fixture.read_shard(MODEL / "train_000.bin").astype("i8")
    available = (len(tokens) - 1) // 128
    rows = np.stack([tokens[r * available // ROWS * 128:][:128] for r in range(ROWS)])
    statistics = tiepack.torch.measure(net, [torch.from_numpy(rows[b:b + 4]) for b in range(0, ROWS, 4)])
    own = {name: true for true, name in net.parameters_by_name.items()}
    found = {own[key.split(":")[0]] + ":" + key.split(":")[1]: a for key, a in statistics.arrays.items()}
    compared = 0
    for key, wanted in native.items():
        if not key.endswith(":correction"):
            assert found[key].shape == wanted.shape
            assert np.linalg.norm(found[key] - wanted) <= 1e-3 * np.linalg.norm(wanted), key
            compared += 1
    assert compared > 50 and statistics.tokens == ROWS * 128
    # Packs of the same divergence, by a network that tiepack knows.
    tiepack.torch.Statistics(found, statistics.tokens).save(tmp_path / "watched.safetensors")
    native_file = next(tmp_path.glob("*.statistics.safetensors"))
    options = dict(cap="100kB", effort="fast", heal="off", val_rows=64, no_cache=True)
    reports = [tiepack.pack(MODEL, tmp_path / "y.tiepack", statistics=file, **options)
               for file in (native_file, tmp_path / "watched.safetensors")]
    cost = [report["verdict"]["evaluation"]["cost"]["divergence"]["mean"]["value"] for report in reports]
    assert cost[1] == pytest.approx(cost[0], rel=0.02)


class Bank(torch.nn.Module):
    """What tiepack does not know: a bank of matrices, a tied head, a gate."""

    def __init__(self, vocab=96, width=48, layers=3):
        super().__init__()
        self.embed = torch.nn.Embedding(vocab, width)
        self.bank = torch.nn.Parameter(torch.randn(layers, width, width) / width**0.5)
        self.mix = torch.nn.Linear(width, width)
        self.gate = torch.nn.Parameter(torch.zeros(layers, width))
        self.head = torch.nn.Linear(width, vocab, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids, recorder=None):
        x = self.embed(ids)
        for i in range(len(self.bank)):
            w = self.bank[i].to(x.dtype)
            y = F.linear(x, w) if recorder is None else recorder.linear(x, w, "bank", i * len(w))
            x = x + torch.sigmoid(self.gate[i]) * self.mix(torch.tanh(y))
        return self.head(x)


def batches(n=6):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 96, (4, 32), generator=generator) for _ in range(n)]


def test_curvature_is_that_of_gradients_written_out():
    torch.manual_seed(0)
    net, ids = Bank(), batches(1)[0][:1, :1]
    statistics = tiepack.torch.measure(net, [ids])
    # One token: the Fisher information is one outer product, so both factors have to be exact.
    logits = net(ids)
    heat = tiepack.torch.temperature(logits)
    g, = torch.autograd.grad(logits, net.bank, tiepack.torch.cotangent(logits, 0, heat))
    o, h = statistics.arrays["bank:output"], statistics.arrays["bank:input"]
    assert o.shape == (144, 48) and h.shape == (48, 48)
    first = torch.einsum("i,j->ij", g[0, :, 0], g[0, :, 0])
    assert np.allclose(np.einsum("ij,kk->ij", o, h).sum() >= 0, True)
    expected = first.detach().numpy()
    cosine = (o[:48] * expected).sum() / np.linalg.norm(o[:48]) / np.linalg.norm(expected)
    assert cosine > 0.999


def test_what_is_frozen_is_measured_as_what_is_not():
    torch.manual_seed(0)
    net = Bank()
    wanted = tiepack.torch.measure(net, batches(1)).arrays
    net.requires_grad_(False)
    found = tiepack.torch.measure(net, batches(1)).arrays
    assert found.keys() == wanted.keys() and all(np.array_equal(found[key], wanted[key]) for key in wanted)
    assert not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("name", ["module", "_orig_mod"])
def test_a_module_in_a_wrapper_is_packed_as_what_is_in_it(name, tmp_path):
    class Wrapper(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.add_module(name, inner)

        def forward(self, ids):
            return getattr(self, name)(ids)

    torch.manual_seed(0)
    net = Bank()
    statistics, wrapped = tiepack.torch.measure(net, batches(1)), Wrapper(net)
    found = tiepack.torch.measure(wrapped, batches(1))
    assert found.arrays.keys() == statistics.arrays.keys()
    tiepack.torch.pack(net, statistics, tmp_path / "net.tiepack", cap=9000)
    tiepack.torch.pack(wrapped, found, tmp_path / "wrapped.tiepack", cap=9000, evaluate=lambda module: [1.0])
    assert (tmp_path / "net.tiepack").read_bytes() == (tmp_path / "wrapped.tiepack").read_bytes()


def test_with_a_loss_of_ones_own_the_curvature_is_of_its_gradients():
    torch.manual_seed(0)
    net, ids = Bank(), batches(1)[0][:1, :1]

    def loss(module, batch):
        return F.cross_entropy(module(batch)[0], torch.tensor([5]), reduction="sum"), 1

    statistics = tiepack.torch.measure(net, [ids], loss)
    o, h = statistics.arrays["mix.weight:output"], statistics.arrays["mix.weight:input"]
    assert o.shape == (48, 48) and h.shape == (48, 48) and statistics.tokens == 1
    bias, = torch.autograd.grad(loss(net, ids)[0], net.mix.bias)
    assert np.allclose(statistics.arrays["mix.bias:curvature"], bias.numpy() ** 2, rtol=1e-4)
    with pytest.raises(tiepack.UsageError, match="number of tokens"):
        tiepack.torch.measure(net, [ids], lambda module, batch: (loss(module, batch)[0], None))


def test_the_recorder_sees_what_it_is_told():
    torch.manual_seed(0)
    net = Bank()
    seen = tiepack.torch.measure(net, batches(2))
    told = tiepack.torch.Recorder(net)
    for ids in batches(2):
        with told.watch():
            logits = net(ids, told)
        told.backward(logits)
    told = told.statistics()
    assert seen.arrays.keys() == told.arrays.keys() and "bank:input" in seen.arrays
    for key, array in seen.arrays.items():
        assert np.allclose(array, told.arrays[key], rtol=1e-4, atol=1e-9), key


def test_a_module_is_packed_and_put_back(tmp_path):
    torch.manual_seed(0)
    net = Bank()
    statistics = tiepack.torch.measure(net, batches())

    def losses(module):
        with torch.no_grad():
            return [F.cross_entropy(module(b)[:, :-1].flatten(0, 1), b[:, 1:].flatten()).item() for b in batches(4)]

    before = losses(net)
    report = tiepack.torch.pack(net, statistics, tmp_path / "bank.tiepack", cap=13_000, evaluate=losses)
    assert (tmp_path / "bank.tiepack").stat().st_size <= 13_000
    assert losses(net) == before, "the module's own values are back"
    judged = report["verdict"]["judged"]
    assert abs(judged["difference"]["value"]) < 0.05 and judged["rows"] == 4
    assert judged["difference"]["value"] == pytest.approx(judged["packed"] - judged["original"])
    assert "not evaluated" not in json.dumps(report["verdict"]["notes"])
    other = Bank()
    other.head.weight = torch.nn.Parameter(torch.zeros(96, 48))
    tiepack.torch.load_into(other, tmp_path / "bank.tiepack")
    assert other.head.weight is other.embed.weight
    assert np.mean(losses(other)) == pytest.approx(judged["packed"])
    loaded = tiepack.load(tmp_path / "bank.tiepack")
    assert isinstance(loaded["bank"], torch.Tensor) and loaded["head.weight"] is loaded["embed.weight"]


def test_what_was_not_measured_is_named(tmp_path):
    net = Bank()
    statistics = tiepack.torch.measure(net, batches(1))
    statistics.arrays = {key: a for key, a in statistics.arrays.items() if not key.startswith("mix.")}
    report = tiepack.torch.pack(net, statistics, tmp_path / "x.tiepack", cap=9000)
    assert any("mix.weight" in json.dumps(note) for note in report["verdict"]["notes"])


def test_modules_that_cannot_be_packed_are_refused(tmp_path):
    with pytest.raises(tiepack.InputError, match="meta device"):
        tiepack.torch.measure(torch.nn.Linear(4, 4, device="meta"), [])
    with pytest.raises(tiepack.InputError, match="no batch"):
        tiepack.torch.measure(Bank(), [])
    net = torch.nn.Linear(64, 64)
    net.register_buffer("q", torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8))
    with pytest.raises(tiepack.InputError, match="quantized"):
        tiepack.torch.pack(net, None, tmp_path / "x.tiepack", cap=9000)
    net = Bank()
    tiepack.torch.pack(net, None, tmp_path / "bank.tiepack", cap=9000)
    with pytest.raises(tiepack.InputError, match="is not of this module"):
        tiepack.torch.load_into(torch.nn.Linear(4, 4), tmp_path / "bank.tiepack")


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "float8_e4m3fn"])
def test_types_and_strides_are_taken_as_they_are(dtype, tmp_path):
    net = torch.nn.Linear(64, 64)
    net.weight = torch.nn.Parameter(torch.randn(64, 64).T.to(getattr(torch, dtype)), requires_grad=False)
    assert not net.weight.is_contiguous()
    tiepack.torch.pack(net, None, tmp_path / "x.tiepack", cap=40_000)
    found = tiepack.load(tmp_path / "x.tiepack")["weight"]
    assert torch.equal(found.float(), net.weight.float())
    before = net.weight.detach().float()
    net.weight.data = torch.zeros(64, 64, dtype=net.weight.dtype)
    tiepack.torch.load_into(net, tmp_path / "x.tiepack")
    assert torch.equal(net.weight.float(), before)


def test_memory_that_is_shared(tmp_path):
    net = torch.nn.Linear(64, 64, bias=False)
    net.twin = torch.nn.Parameter(net.weight.data)  # another Parameter, the same memory
    tiepack.torch.pack(net, None, tmp_path / "x.tiepack", cap=4000)
    assert len(tiepack.Artifact(tmp_path / "x.tiepack").shapes) == 1
    whole = torch.randn(96, 64)
    net = torch.nn.Module()
    net.a, net.b = (torch.nn.Parameter(part) for part in (whole[:48], whole[48:]))  # as sharded training has it
    tiepack.torch.pack(net, None, tmp_path / "x.tiepack", cap=4000)
    net.c = torch.nn.Parameter(whole[40:60])
    with pytest.raises(tiepack.InputError, match="a and c share a part of their memory"):
        tiepack.torch.pack(net, None, tmp_path / "x.tiepack", cap=4000)


def test_integers_come_back_as_they_were(tmp_path):
    """Counters, masks and codebooks of every type that there is, two names of one among them."""
    made = torch.Generator().manual_seed(0)

    class Net(torch.nn.Linear):
        def __init__(self):
            super().__init__(64, 64)
            for name in "bool uint8 int8 int16 uint16 int32 uint32 int64 uint64".split():
                if hasattr(torch, name):
                    bits = torch.randint(0, 256, (5, 3, 8), dtype=torch.uint8, generator=made)
                    value = bits[..., 0] > 99 if name == "bool" else bits.view(getattr(torch, name))
                    self.register_buffer(f"of_{name}", value)
            self.register_buffer("steps", torch.tensor(2**60 + 1))
            self.register_buffer("again", self.steps)
            self.register_buffer("row", torch.arange(6).reshape(1, 6).expand(4, 6))
            self.register_buffer("part", self.of_int64[1:3])
            self.codes = torch.nn.Parameter(torch.randint(0, 9, (9,), generator=made), requires_grad=False)

        def get_extra_state(self):
            return {"version": 3}

        def set_extra_state(self, state):
            pass

    net, other = Net(), Net()
    statistics = tiepack.torch.measure(net, [torch.randn(8, 64)])
    report = tiepack.torch.pack(net, statistics, tmp_path / "x.tiepack", cap=6000, evaluate=lambda module: [module(torch.ones(64)).sum().item()])
    assert report["left_out"] == ["_extra_state"]
    tiepack.torch.load_into(other, tmp_path / "x.tiepack")
    given, got, loaded = net.state_dict(), other.state_dict(), tiepack.load(tmp_path / "x.tiepack")
    whole = [name for name, value in given.items() if isinstance(value, torch.Tensor) and not value.is_floating_point()]
    assert len(whole) > 9 and not torch.equal(Net().codes, net.codes)
    for name in whole:
        assert loaded[name].dtype == given[name].dtype, name
        assert torch.equal(got[name], given[name]) and torch.equal(loaded[name], given[name]), name
    # What an artifact does not have of them stays as it is.
    other.register_buffer("since", torch.tensor(5))
    tiepack.torch.load_into(other, tmp_path / "x.tiepack")
    assert other.since == 5


def test_more_integers_than_a_file_may_hold_are_refused(tmp_path):
    net = torch.nn.Linear(64, 64)
    net.register_buffer("empty", torch.zeros(30 << 20, dtype=torch.int8))
    with pytest.raises(tiepack.ComputeError, match="the largest is empty") as told:
        tiepack.torch.pack(net, None, tmp_path / "x.tiepack", cap=6000)
    assert "take out of the model" in told.value.hint and list(tmp_path.iterdir()) == []


def test_tables_that_layers_share(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    net[0].register_buffer("inv_freq", torch.randn(16))
    net[1].register_buffer("inv_freq", net[0].inv_freq)
    tiepack.torch.pack(net, None, tmp_path / "x.tiepack", cap=9000)
    before = net[0].inv_freq.clone()
    net[0].inv_freq.zero_()
    tiepack.torch.load_into(net, tmp_path / "x.tiepack")
    assert torch.equal(net[1].inv_freq, before)


class Certain(torch.nn.Module):
    """One layer between an embedding as wide as a first draft of a script makes it and the head that is tied to it."""

    def __init__(self, vocab=128, width=96):
        super().__init__()
        self.embed = torch.nn.Embedding(vocab, width)
        torch.nn.init.normal_(self.embed.weight, std=2.0)
        self.mix = torch.nn.Linear(width, width, bias=False)

    def forward(self, ids):
        x = self.embed(ids)
        return F.linear(x + self.mix(torch.tanh(x)), self.embed.weight)


def test_a_module_that_is_certain_of_everything_fills_its_cap(tmp_path):
    torch.manual_seed(0)
    net, ids = Certain(), torch.arange(128).reshape(4, 32)
    with torch.no_grad():
        logits = net(ids)
    assert torch.softmax(logits, -1).amax(-1).min() > 0.999
    assert tiepack.torch.temperature(logits) > 1 and tiepack.torch.temperature(logits / 1e3) == 1
    statistics = tiepack.torch.measure(net, [ids])
    report = tiepack.torch.pack(net, statistics, tmp_path / "x.tiepack", cap=7000)
    assert 0.98 * 7000 < (tmp_path / "x.tiepack").stat().st_size <= 7000, report["verdict"]["budget"]
    tiepack.torch.load_into(net, tmp_path / "x.tiepack")
    with torch.no_grad():
        assert torch.equal(net(ids).argmax(-1), logits.argmax(-1))


def test_tensors_of_no_size_and_of_no_use(tmp_path):
    net = torch.nn.Linear(64, 64)
    net.none = torch.nn.Parameter(torch.zeros(0, 64))
    tiepack.torch.pack(net, None, tmp_path / "x.tiepack", cap=5000)
    net.none.data = torch.zeros(0, 64)
    tiepack.torch.load_into(net, tmp_path / "x.tiepack")
    assert tiepack.load(tmp_path / "x.tiepack")["none"].shape == (0, 64)
    for tensor in (torch.zeros(4, dtype=torch.complex64), torch.eye(4).to_sparse()):
        net.odd = torch.nn.Parameter(tensor)
        with pytest.raises(tiepack.InputError, match="odd is torch"):
            tiepack.torch.pack(net, None, tmp_path / "x.tiepack", cap=5000)


def test_losses_that_are_none_end_the_run_before_the_work(tmp_path):
    for losses in ([math.nan], [], [[1.0]], 1.0):
        with pytest.raises(tiepack.InputError, match="evaluate gave"):
            tiepack.torch.pack(Bank(), None, tmp_path / "x.tiepack", cap=9000, evaluate=lambda module: losses)
    assert list(tmp_path.iterdir()) == []
    counts = iter([2, 3])
    net = Bank()
    before = {name: p.clone() for name, p in net.state_dict().items()}
    with pytest.raises(tiepack.InputError, match="2 losses before and 3 after"):
        tiepack.torch.pack(net, None, tmp_path / "x.tiepack", cap=9000, evaluate=lambda module: [1.0] * next(counts))
    assert all(torch.equal(p, before[name]) for name, p in net.state_dict().items())


def test_a_module_that_hides_its_work_is_told(tmp_path):
    class Hidden(torch.nn.Linear):
        def forward(self, x):
            with torch._C.DisableTorchFunction():
                return F.linear(x, self.weight)

    with pytest.raises(tiepack.InputError, match="no matrix of the module was seen"):
        tiepack.torch.measure(Hidden(64, 64), [torch.randn(4, 64)])


RANK = """
import sys
sys.path.insert(0, {tests!r})
import torch, tiepack.torch
from test_torch import Bank, batches
rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
torch.manual_seed(0)
recorder = tiepack.torch.Recorder(net := Bank(), seed=rank)
with recorder.watch():
    logits = net(batches(2)[rank])
recorder.backward(logits)
recorder.all_reduce()
recorder.statistics().save(sys.argv[3])
# A rank that leaves while another still talks to it takes that one down.
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_ranks_add_up(tmp_path):
    pytest.importorskip("safetensors")
    from safetensors.numpy import load_file

    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    script = RANK.format(tests=str(ROOT / "python" / "tests"))
    ranks = [subprocess.Popen([sys.executable, "-c", script, str(rank), str(tmp_path / "meet"), str(tmp_path / f"{rank}.safetensors")],
                              cwd=tmp_path, env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"}) for rank in range(2)]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    both = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(2)]
    torch.manual_seed(0)
    net, sums = Bank(), []
    for rank, ids in enumerate(batches(2)):
        recorder = tiepack.torch.Recorder(net, seed=rank)
        with recorder.watch():
            logits = net(ids)
        recorder.backward(logits)
        sums.append(recorder)
    for name, own in sums[0].sums.items():
        own.input += sums[1].sums[name].input
        own.output += sums[1].sums[name].output
    for name, own in sums[0].vectors.items():
        own += sums[1].vectors[name]
    sums[0].tokens += sums[1].tokens
    for name, array in sums[0].statistics().arrays.items():
        assert np.allclose(both[0][name], array, rtol=1e-4, atol=1e-8) and np.array_equal(both[0][name], both[1][name]), name
