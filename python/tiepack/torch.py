"""Any PyTorch model: curvature by watching it run, packing it, and putting an artifact back into it.

    statistics = tiepack.torch.measure(module, batches)
    report = tiepack.torch.pack(module, statistics, "out.tiepack", cap="16MB")
    tiepack.torch.load_into(module, "out.tiepack")

A matrix W (R, C) is used as y = W x, by a Linear, a functional call, or a slice of a bank (B, R, C); tables are looked up. What
is done with a Parameter is seen wherever it happens, so models need no change; for what is not seen (custom kernels, compiled
graphs) there is :meth:`Recorder.linear`. formats/statistics.md in tiepack's repository says what is measured.
"""
from __future__ import annotations

import contextlib
import json
import math
import os
import struct
import tempfile
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

import tiepack

FULL_OUTPUT_LIMIT = 1024
OUTPUT_BLOCK = 512
_GAMMA = 0x9E3779B97F4A7C15
_BATCH = 0xD6E8FEB86659FD93
_UNCERTAIN = 1e-2
_HOTTEST = 24
_SAVED_AS = {
    # Older versions of PyTorch do not have all of them.
    getattr(torch, name): code
    for name, code in {
        "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
        "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "uint16": "U16", "int32": "I32", "uint32": "U32", "int64": "I64",
        "uint64": "U64",
    }.items() if hasattr(torch, name)
}


def _signs(seed: int, rows: int, width: int) -> np.ndarray:
    """Random signs (rows, width) of splitmix64, 64 to a word, as tiepack itself draws them."""
    words = -(-width // 64)
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, rows * words + 1, dtype=np.uint64) * np.uint64(_GAMMA)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = (z ^ (z >> np.uint64(31))).astype("<u8").view(np.uint8)
    bits = np.unpackbits(z.reshape(rows, words * 8), axis=1, bitorder="little")[:, :width]
    return bits.astype(np.float32) * 2 - 1


def temperature(logits: torch.Tensor) -> float:
    """The temperature T, a power of two, at which predictions softmax(logits / T) are uncertain enough to be measured.

    It is 1 for all but modules that are certain of nearly every prediction: their own curvature vanishes, and says nothing
    about errors as large as the distance to the next token.
    """
    logits = logits.detach().double()
    for t in (2.0 ** k for k in range(_HOTTEST + 1)):
        uncertainty = 1 - torch.softmax(logits / t, -1).square().sum(-1).mean()
        if float(uncertainty) >= _UNCERTAIN:
            return t
    return 1.0


def cotangent(logits: torch.Tensor, seed: int, temperature: float = 1.0) -> torch.Tensor:
    """For logits (..., V) of probabilities p at a temperature T: (sqrt(p) z - p (sqrt(p) . z)) / T with random signs z.

    At T = 1 its covariance is diag(p) - p pᵀ, the Fisher information of a softmax, with lighter tails than a sampled label's
    gradient.
    """
    p = torch.softmax(logits.detach().float() / temperature, -1)
    rows = p.reshape(-1, p.shape[-1])
    z = torch.from_numpy(_signs(seed, *rows.shape)).to(p.device)
    root = rows.sqrt() * z
    return ((root - rows * root.sum(-1, keepdim=True)) / temperature).reshape(p.shape)


def _output_block(rows: int, embedding: bool) -> int:
    """Rows of a diagonal block of the output factor: all, one, or a few hundred."""
    if rows <= FULL_OUTPUT_LIMIT:
        return rows
    return 1 if embedding else OUTPUT_BLOCK


class _Sums:
    """Of one matrix: sum of |g|² x xᵀ (C, C), and diagonal blocks of the sum of |x|² g gᵀ (R, B)."""

    def __init__(self, rows: int, cols: int, block: int, device: torch.device):
        self.rows, self.cols, self.block = rows, cols, block
        self.input = torch.zeros(cols, cols, device=device)
        self.output = torch.zeros(rows, block, device=device)

    def record(self, x: torch.Tensor, g: torch.Tensor, first: int = 0) -> None:
        """x (N, C), and g (N, n) of the rows from `first` on."""
        xs = x * g.norm(dim=-1, keepdim=True)
        gs = g * x.norm(dim=-1, keepdim=True)
        self.input.addmm_(xs.T, xs)
        if self.block == 1:
            self.output[first:first + g.shape[1], 0] += gs.square().sum(0)
            return
        at = 0
        while at < g.shape[1]:
            row = first + at
            inside = row % self.block
            n = min(self.block - inside, g.shape[1] - at)
            part = gs[:, at:at + n]
            self.output[row:row + n, inside:inside + n] += part.T @ part
            at += n

    def record_lookup(self, ids: torch.Tensor, g: torch.Tensor) -> None:
        self.input.addmm_(g.T, g)
        energy = g.square().sum(-1)
        self.output.view(-1).index_add_(0, ids * self.block + ids % self.block, energy)


class _Use:
    """Which matrix a tensor is: a Parameter, or a slice of one, maybe transposed or cast."""

    def __init__(self, name: str, first: int, rows: int, turned: bool = False):
        self.name, self.first, self.rows, self.turned = name, first, rows, turned


_SAME = {
    torch.Tensor.to, torch.Tensor.float, torch.Tensor.bfloat16, torch.Tensor.half, torch.Tensor.type,
    torch.Tensor.type_as, torch.Tensor.contiguous, torch.Tensor.double, torch.Tensor.clone,
}
_TURNED = {torch.Tensor.t, torch.t, torch.Tensor.T.__get__, torch.Tensor.mT.__get__}
_PRODUCTS = {torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.Tensor.mm}


class Recorder(TorchFunctionMode):
    """Watches what a module does with its Parameters. Use :func:`measure` unless passes are your own:

        with recorder.watch():
            logits = module(tokens)
        recorder.backward(logits)
        statistics = recorder.statistics()
    """

    def __init__(self, module: torch.nn.Module, seed: int = 0):
        super().__init__()
        self.module, self.seed, self.batches, self.tokens = module, seed, 0, 0
        self.temperature: Optional[float] = None  # of the predictions, as the first batch needs it
        self.names: Dict[int, str] = {}
        self.parameters: Dict[str, torch.nn.Parameter] = {}
        first: Dict[Any, str] = {}
        for name, parameter in _bare(module).named_parameters(remove_duplicate=False):
            _refuse(name, parameter)
            if not parameter.is_floating_point():
                continue  # codes and counts have no gradient
            one = first.setdefault(_identity(parameter), name)
            self.names[id(parameter)] = one
            if one == name:
                self.parameters[name] = parameter
        self.sums: Dict[str, _Sums] = {}
        self.vectors: Dict[str, torch.Tensor] = {}
        self.uses: Dict[int, Tuple[_Use, torch.Tensor]] = {}
        self.tape: List[Tuple[torch.Tensor, Callable[[torch.Tensor], None]]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not torch.is_grad_enabled() or not args:
            return out
        if func is F.linear:
            weight = args[1] if len(args) > 1 else kwargs.get("weight")
            self._product(args[0], weight, out, False)
        elif func in (F.embedding, torch.embedding):
            ids, weight = (args[0], args[1]) if func is F.embedding else (args[1], args[0])
            use = self._use(weight)
            if use is not None and isinstance(out, torch.Tensor) and out.requires_grad:
                self._lookup(use, ids, out)
        elif func in _PRODUCTS and len(args) > 1:
            self._product(args[0], args[1], out, True)
        elif func in _SAME or func in _TURNED or func is torch.Tensor.transpose:
            use = self._use(args[0])
            if use is not None and isinstance(out, torch.Tensor) and out.dim() == 2:
                turned = func not in _SAME and args[0].dim() == 2
                self._remember(out, _Use(use.name, use.first, use.rows, use.turned ^ turned))
            elif use is not None and func in _SAME and isinstance(out, torch.Tensor):
                self._remember(out, use)
        elif func is torch.Tensor.__getitem__ and isinstance(args[1], int) and args[0].dim() == 3:
            self._slice(args[0], args[1], out)
        elif func in (torch.Tensor.unbind, torch.unbind) and args[0].dim() == 3 and len(args) == 1 and not kwargs:
            for index, part in enumerate(out):
                self._slice(args[0], index, part)
        return out

    def _use(self, tensor: Any) -> Optional[_Use]:
        if not isinstance(tensor, torch.Tensor):
            return None
        name = self.names.get(id(tensor))
        if name is not None:
            return _Use(name, 0, math.prod(tensor.shape[:-1])) if tensor.dim() > 1 else None
        found = self.uses.get(id(tensor))
        return found[0] if found is not None else None

    def _remember(self, tensor: torch.Tensor, use: _Use) -> None:
        if id(tensor) not in self.names:
            self.uses[id(tensor)] = use, tensor  # held, so that no other tensor gets its id

    def _slice(self, bank: torch.Tensor, index: int, out: torch.Tensor) -> None:
        use = self._use(bank)
        if use is not None and not use.turned:
            rows = bank.shape[1]
            self._remember(out, _Use(use.name, use.first + index % bank.shape[0] * rows, rows))

    def _of(self, use: _Use, embedding: bool = False) -> _Sums:
        if use.name not in self.sums:
            weight = self.parameters[use.name]
            rows, cols = math.prod(weight.shape[:-1]), weight.shape[-1]
            block = _output_block(rows, embedding)
            if weight.dim() == 3 and block != 1:
                block = weight.shape[1] if weight.shape[1] % 16 == 0 and weight.shape[1] <= FULL_OUTPUT_LIMIT else block
            self.sums[use.name] = _Sums(rows, cols, block, weight.device)
        return self.sums[use.name]

    def _product(self, x: Any, weight: Any, out: Any, turned: bool) -> None:
        use = self._use(weight)
        if use is None or use.turned != turned or not (isinstance(out, torch.Tensor) and out.requires_grad):
            return
        x = x.detach()

        def record(g: torch.Tensor) -> None:
            g = g.detach().reshape(-1, use.rows).float()
            self._of(use).record(x.reshape(-1, x.shape[-1]).float(), g, use.first)

        self.tape.append((out, record))

    def _lookup(self, use: _Use, ids: torch.Tensor, out: torch.Tensor) -> None:
        def record(g: torch.Tensor) -> None:
            self._of(use, True).record_lookup(ids.reshape(-1), g.detach().reshape(-1, g.shape[-1]).float())

        self.tape.append((out, record))

    def linear(self, x: torch.Tensor, weight: torch.Tensor, name: str, first: int = 0) -> torch.Tensor:
        """x (..., C) times a matrix (R, C)ᵀ that is the Parameter `name`, or its rows from `first` on.

        For products that are not seen by themselves, as of slices of banks that were cast or joined on the way.
        """
        if name not in self.parameters:
            raise tiepack.InputError(f"the module has no parameter {name}")
        self._remember(weight, _Use(name, first, weight.shape[0]))
        with torch._C.DisableTorchFunction():
            out = F.linear(x, weight)
        self._product(x, weight, out, False)
        return out

    @contextlib.contextmanager
    def watch(self):
        """One forward pass, with gradients for every Parameter."""
        with self._thawed(), torch.enable_grad(), self:
            yield self

    @contextlib.contextmanager
    def _thawed(self):
        frozen = [p for p in self.parameters.values() if not p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)

    def backward(self, outputs: torch.Tensor, tokens: Optional[int] = None) -> None:
        """From the logits (..., V) of a pass, or from a loss summed over `tokens` tokens, to the sums."""
        scalar = outputs.dim() == 0
        if scalar and tokens is None:
            raise tiepack.UsageError("a loss needs the number of tokens it sums over")
        seed = (self.seed ^ (self.batches * _BATCH)) & (2**64 - 1)
        if self.temperature is None and not scalar:
            self.temperature = temperature(outputs)
        seeds = None if scalar else cotangent(outputs, seed, self.temperature).to(outputs.dtype)
        small = {n: p for n, p in self.parameters.items() if not _is_matrix(p)}
        tape, self.tape = self.tape, []
        with self._thawed():
            grads = torch.autograd.grad(outputs, [*small.values(), *(out for out, _ in tape)], seeds, allow_unused=True)
        for (_, record), g in zip(tape, grads[len(small):]):
            if g is not None:
                record(g)
        for name, g in zip(small, grads):
            if g is not None:
                total = self.vectors.setdefault(name, torch.zeros_like(g, dtype=torch.float64))
                total += g.detach().double().square()
        self.batches += 1
        self.tokens += tokens if tokens is not None else outputs.numel() // outputs.shape[-1]
        self.uses.clear()

    def statistics(self) -> "Statistics":
        """What was measured so far.

        Raises ComputeError where a gradient overflowed, InputError where no matrix was seen at work.
        """
        if not self.sums and any(map(_is_matrix, self.parameters.values())):
            raise tiepack.InputError(
                "no matrix of the module was seen at work: a compiled graph or a kernel of its own hides them",
                "measure the module as it was before torch.compile, or name its products with Recorder.linear")
        found: Dict[str, np.ndarray] = {}
        for name, sums in self.sums.items():
            if not _is_matrix(self.parameters[name]):
                continue
            trace = float(sums.input.diagonal().double().sum())
            if not math.isfinite(trace):
                raise tiepack.ComputeError(f"the curvature of {name} came out as {trace}: its gradient overflows")
            root = max(math.sqrt(trace), 1.2e-38)
            found[name + ":input"] = (sums.input * (1 / root)).cpu().numpy()
            output = (sums.output * (1 / (root * max(self.tokens, 1)))).cpu().numpy()
            found[name + ":output"] = output[:, 0] if sums.block == 1 else output
        for name, total in self.vectors.items():
            if not _is_matrix(self.parameters[name]):
                found[name + ":curvature"] = (total / max(self.tokens, 1)).float().cpu().numpy()
        return Statistics(found, self.tokens)

    def all_reduce(self) -> None:
        """Adds what the other ranks of torch.distributed measured. Every rank must have used the same matrices."""
        for name in sorted(self.sums):
            torch.distributed.all_reduce(self.sums[name].input)
            torch.distributed.all_reduce(self.sums[name].output)
        for name in sorted(self.vectors):
            torch.distributed.all_reduce(self.vectors[name])
        device = next(iter(self.parameters.values())).device
        tokens = torch.tensor(self.tokens, device=device)
        torch.distributed.all_reduce(tokens)
        self.tokens = int(tokens)


def _bare(module: torch.nn.Module) -> torch.nn.Module:
    """The module inside of DistributedDataParallel, torch.compile and their like, whose names tiepack takes off as well."""
    while True:
        inside = dict(module.named_children())
        if len(inside) != 1 or next(module.parameters(recurse=False), None) is not None:
            return module
        (name, inner), = inside.items()
        if name not in ("module", "_orig_mod"):
            return module
        module = inner


def _refuse(name: str, tensor: torch.Tensor) -> None:
    """Raises InputError for tensors that have no values of their own, or none that an artifact can hold."""
    if tensor.device.type == "meta":
        raise tiepack.InputError(f"{name} is on the meta device: it has no values to measure or pack", "load the weights first")
    if tensor.is_quantized:
        raise tiepack.InputError(f"{name} is of the quantized type {tensor.dtype}", "dequantize it before packing")
    if tensor.layout != torch.strided or tensor.is_complex():
        raise tiepack.InputError(f"{name} is {tensor.layout} of {tensor.dtype}: wanted real numbers, each at its place")


def _identity(tensor: torch.Tensor) -> Any:
    """Equal for tensors that are the same place in memory, read the same way."""
    if tensor.numel() == 0:
        return id(tensor)
    return tensor.device, tensor.dtype, tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors have some memory in common."""
    def span(t: torch.Tensor) -> Tuple[int, int]:
        start = t.storage_offset() * t.element_size()
        return start, start + (sum((n - 1) * s for n, s in zip(t.shape, t.stride())) + 1) * t.element_size()

    (first, end), (second, last) = span(a), span(b)
    if end <= second or last <= first:
        return False
    if a.dtype != b.dtype:
        return True
    places = torch.arange(max(end, last) // a.element_size())
    places = [places.as_strided(t.shape, t.stride(), t.storage_offset()).reshape(-1) for t in (a, b)]
    return bool(torch.isin(*places).any())


def _is_matrix(parameter: torch.Tensor) -> bool:
    """Whether tiepack takes a tensor for a matrix: what it is without a known network."""
    return tiepack._native.is_matrix(list(parameter.shape))


class Statistics:
    """Curvature of a model's loss: arrays f32 by `NAME:input`, `NAME:output`, `NAME:curvature`, and calibration tokens."""

    def __init__(self, arrays: Dict[str, np.ndarray], tokens: int):
        self.arrays, self.tokens = arrays, tokens

    def save(self, path: Union[str, "os.PathLike[str]"]) -> None:
        """As a file that `tiepack pack --statistics` takes."""
        arrays = {name: ("F32", list(a.shape), np.ascontiguousarray(a, "<f4").tobytes()) for name, a in self.arrays.items()}
        _save_safetensors(path, arrays, {"tokens": str(self.tokens)})


def measure(
    module: torch.nn.Module,
    batches: Iterable[Any],
    loss: Optional[Callable[[torch.nn.Module, Any], Tuple[torch.Tensor, int]]] = None,
    *,
    forward: Optional[Callable[[torch.nn.Module, Any], Any]] = None,
    seed: int = 0,
) -> Statistics:
    """Curvature of the KL divergence to the module itself, on the module's device.

    Each of `batches` is what the module takes (a tensor, a tuple of arguments, a dict of keywords); `forward(module, batch)` is
    asked instead where that is not all. It gives logits (..., V), or an object with `.logits`. With `loss(module, batch)`, which
    gives a loss summed over tokens and their number, the curvature is that of this loss (its empirical Fisher information).
    About 512 tokens a batch are best: controls are measured batch by batch. Dropout is off meanwhile.
    """
    recorder = Recorder(module, seed)
    training = module.training
    module.eval()
    try:
        for batch in batches:
            with recorder.watch():
                if loss is not None:
                    out, tokens = loss(module, batch)
                else:
                    out, tokens = forward(module, batch) if forward is not None else _call(module, batch), None
                    out = getattr(out, "logits", out)
            if not isinstance(out, torch.Tensor) or not out.requires_grad:
                raise tiepack.InputError("the module gave no logits that depend on its parameters; name them with `forward`")
            recorder.backward(out, tokens)
    finally:
        module.train(training)
    if recorder.batches == 0:
        raise tiepack.InputError("there is no batch to measure on")
    return recorder.statistics()


def _call(module: torch.nn.Module, batch: Any) -> Any:
    if isinstance(batch, dict):
        return module(**batch)
    return module(*batch) if isinstance(batch, (tuple, list)) else module(batch)


def pack(
    module: torch.nn.Module,
    statistics: Optional[Statistics],
    output: Union[str, "os.PathLike[str]"],
    *,
    cap: Union[int, str],
    evaluate: Optional[Callable[[torch.nn.Module], Sequence[float]]] = None,
    **options: Any,
) -> Dict[str, Any]:
    """Packs a module under a byte cap; the report is that of :func:`tiepack.pack`.

    Parameters that are one, or the same memory, are stored once. Without `statistics` every weight counts alike; what they leave
    out is packed by squared error, and a note in the verdict names it. `evaluate(module)` gives losses, one for each of some rows;
    it is asked before the work, and after it with the artifact's values in place (the module's own come back). Their paired
    difference is `report["verdict"]["judged"]`, as that of `--evaluator`. Integers and booleans are kept bit for bit;
    `report["left_out"]` names what the artifact has nothing of, as a module's extra state.

    Raises InputError for modules on the meta device, quantized, complex and sparse tensors, and Parameters that share part of
    their memory; CapError, with the smallest cap that would do, where the module does not fit.
    """
    before = None if evaluate is None else _losses(module, evaluate)
    with tempfile.TemporaryDirectory() as folder:
        model, ties = os.path.join(folder, "model.safetensors"), os.path.join(folder, "ties.json")
        aliases = save_model(module, model)
        with open(ties, "w") as file:
            json.dump({"aliases": aliases}, file)
        given = "none"
        if statistics is not None:
            given = os.path.join(folder, "statistics.safetensors")
            statistics.save(given)
        if aliases:
            options["ties"] = ties
        report = tiepack.pack(model, output, cap=cap, statistics=given, no_eval=True, **options)
    verdict = report["verdict"]
    verdict["against"] = None  # a file that is gone by now
    report["left_out"] = sorted(_bare(module).state_dict().keys() - tiepack.Artifact(output).names.keys())
    if before is not None:
        verdict["judged"] = _paired(before, _losses_of(module, output, evaluate))
        verdict["notes"] = [note for note in verdict["notes"] if not note["message"].startswith("not evaluated")]
    return report


def _losses(module: torch.nn.Module, evaluate: Callable[[torch.nn.Module], Sequence[float]]) -> np.ndarray:
    losses = np.asarray(evaluate(module), "f8")
    if losses.ndim != 1 or losses.size == 0:
        raise tiepack.InputError(f"evaluate gave an array of shape {losses.shape}: wanted one loss for each row")
    if not np.isfinite(losses).all():
        raise tiepack.InputError(f"evaluate gave a loss that is no number: {losses[~np.isfinite(losses)][0]}")
    return losses


def _losses_of(module: torch.nn.Module, path: Any, evaluate: Callable[[torch.nn.Module], Sequence[float]]) -> np.ndarray:
    """The losses with the artifact's values in the module; its own come back, whatever happens."""
    kept = {name: p.detach().clone() for name, p in _tensors(module).items()}
    try:
        load_into(module, path, tie=False)
        return _losses(module, evaluate)
    finally:
        with torch.no_grad():
            for name, tensor in _tensors(module).items():
                _put(tensor, kept[name])


def _paired(before: np.ndarray, after: np.ndarray) -> Dict[str, Any]:
    if before.shape != after.shape:
        raise tiepack.InputError(
            f"evaluate gave {before.size} losses before and {after.size} after", "evaluate the same rows, whatever the weights")
    d = after - before
    error = float(d.std(ddof=1) / math.sqrt(d.size)) if d.size > 1 else None
    difference = {"value": float(d.mean()), "standard_error": error}
    return {"command": "evaluate", "rows": d.size, "original": float(before.mean()), "packed": float(after.mean()), "difference": difference}


def load_into(module: torch.nn.Module, path: Union[str, "os.PathLike[str]"], *, tie: bool = True) -> None:
    """Puts an artifact's values into a module of the same names and shapes, in the module's types and on its devices.

    Matrices that the artifact stores once become one Parameter, so that they stay tied in further training; not with `tie=False`.
    Integers and booleans that the artifact does not have stay as they are.
    """
    artifact, own = tiepack.Artifact(path), _tensors(module)
    tensors = artifact.torch()
    own = {name: tensor for name, tensor in own.items() if name in tensors or tensor.is_floating_point()}
    missing, foreign = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or foreign:
        raise tiepack.InputError(
            f"{os.fspath(path)} is not of this module: it lacks {', '.join(missing[:3]) or 'nothing'}"
            f" and has {', '.join(foreign[:3]) or 'nothing'} beside")
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise tiepack.InputError(f"{name} is {list(tensors[name].shape)} in {os.fspath(path)}, {list(tensor.shape)} in the module")
    with torch.no_grad():
        for name, tensor in own.items():
            _put(tensor, tensors[name])
    if tie:
        leaders: Dict[int, torch.nn.Parameter] = {}
        for name, tensor in own.items():
            if isinstance(tensor, torch.nn.Parameter) and _is_matrix(tensor):
                leader = leaders.setdefault(artifact.names[name], tensor)
                if leader is not tensor and leader.dtype == tensor.dtype and leader.device == tensor.device:
                    owner, _, attribute = name.rpartition(".")
                    setattr(_bare(module).get_submodule(owner), attribute, leader)


def _put(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """Gives a tensor values; where it has them already nothing is written, since what was expanded could not be."""
    value = value.to(tensor.device, tensor.dtype)
    if tensor.is_floating_point() or not torch.equal(tensor, value):
        tensor.copy_(value)


def _tensors(module: torch.nn.Module) -> Dict[str, torch.Tensor]:
    """Parameters and buffers that a checkpoint holds, of types that an artifact has."""
    found: Dict[str, torch.Tensor] = {}
    for name, tensor in _bare(module).state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor):
            continue
        _refuse(name, tensor)
        if tensor.dtype in _SAVED_AS:
            found[name] = tensor
        elif tensor.is_floating_point():
            raise tiepack.InputError(f"{name} is of type {tensor.dtype}, which tiepack does not know")
    return found


def save_model(module: torch.nn.Module, path: Union[str, "os.PathLike[str]"]) -> Dict[str, str]:
    """Writes a module's tensors as safetensors; returns for every further name of a Parameter its first.

    Raises InputError where two weights share a part of their memory: both cannot get the values of an artifact.
    """
    arrays, first, aliases = {}, {}, {}
    places: Dict[int, List[str]] = {}
    tensors = _tensors(module)
    for name, tensor in tensors.items():
        # What is no weight comes back as it was, whatever shares its memory.
        weight = tensor.is_floating_point()
        one = first.setdefault(_identity(tensor), name) if weight else name
        if one != name:
            arrays[name] = arrays[one]  # a model of no known network has every name
            if isinstance(tensor, torch.nn.Parameter):  # a buffer may be no weight to tiepack, so that it cannot be tied
                aliases[name] = one
            continue
        if weight and tensor.numel():
            beside = places.setdefault(tensor.untyped_storage().data_ptr(), [])
            for other in beside:
                if _overlap(tensor, tensors[other]):
                    raise tiepack.InputError(
                        f"{other} and {name} share a part of their memory, so they cannot be packed as two",
                        "make them one Parameter, or give each its own with clone()")
            beside.append(name)
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else torch.zeros(0, dtype=torch.uint8)
        arrays[name] = _SAVED_AS[tensor.dtype], list(tensor.shape), raw.numpy().tobytes()
    _save_safetensors(path, arrays, {"format": "pt"})
    return aliases


def _save_safetensors(path: Any, arrays: Dict[str, Tuple[str, List[int], bytes]], metadata: Dict[str, str]) -> None:
    header: Dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, (dtype, shape, data) in arrays.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in arrays.values():
            file.write(data)
