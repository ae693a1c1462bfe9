"""tiepack compiles a trained, layer-tied transformer into the best model that fits a hard byte cap, and proves it.

    report = tiepack.pack("model_folder", "out.tiepack", cap="16MB")
    tensors = tiepack.load("out.tiepack")

Commands return what `tiepack COMMAND --json` prints, as dicts (formats/ in the repository has the schemas), and raise
:class:`TiepackError` with the same words. They run without the interpreter's lock and stop at Ctrl-C. For modules of PyTorch see
:mod:`tiepack.torch`.
"""
from __future__ import annotations

import json
import os
import sys
from typing import Any, Dict, Iterable, List, Mapping, NoReturn, Optional, Sequence, Tuple, Union

import numpy as np

# The library runs many small batches side by side; a thread pool inside each would make them wait for each other.
os.environ.setdefault("CANDLE_NUM_THREADS", "1")

from tiepack import _native  # noqa: E402

__version__: str = _native.version
__all__ = [
    "Artifact", "CapError", "ComputeError", "InputError", "TiepackError", "UsageError", "VerificationError", "bundle",
    "bundled", "config", "diff", "evaluate", "frontier", "inspect", "load", "pack", "tokens", "unpack", "verify",
]
Path = Union[str, "os.PathLike[str]"]
# One file, or several.
Files = Union[Path, Iterable[Path]]


class TiepackError(Exception):
    """What went wrong: `message`, the way out `hint` (or None), `kind` and `exit_code` as `--json` has them."""

    kind = "compute"

    def __init__(self, message: str, hint: Optional[str] = None, exit_code: int = 1):
        super().__init__(message if hint is None else f"{message} (hint: {hint})")
        self.message, self.hint, self.exit_code = message, hint, exit_code


class InputError(TiepackError):
    """A file or a module could not be read, or what it holds is unusable."""

    kind = "input"


class UsageError(TiepackError):
    """What was asked for makes no sense."""

    kind = "usage"


class CapError(TiepackError):
    """The model does not fit the cap."""

    kind = "cap"


class VerificationError(TiepackError):
    """An artifact is damaged, or is not what it claims to be."""

    kind = "verification"


class ComputeError(TiepackError):
    """A computation failed inside."""


_ERRORS = {e.kind: e for e in (InputError, UsageError, CapError, VerificationError, ComputeError)}


def _raise(code: int, document: str) -> NoReturn:
    error = json.loads(document)["error"]
    raise _ERRORS.get(error["kind"], TiepackError)(error["message"], error["hint"], code)


def _items(value: Any) -> List[Any]:
    """What an option is given once for each: a text or a path is one, whatever else can be iterated is several."""
    if isinstance(value, (str, bytes, os.PathLike)) or not isinstance(value, Iterable):
        return [value]
    return list(value)


def _arguments(command: str, positional: Sequence[Path], options: Mapping[str, Any]) -> List[str]:
    args: List[str] = ["tiepack", command, "--json"]
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        for item in _items(value):
            if item is True:
                args.append(flag)
            elif item is not None and item is not False:
                args.append(f"{flag}={os.fsdecode(item) if isinstance(item, (bytes, os.PathLike)) else item}")
    return args + ["--", *map(os.fsdecode, positional)]


def _run(command: str, positional: Sequence[Path], options: Mapping[str, Any], progress: bool) -> Dict[str, Any]:
    code, document = _native.run(_arguments(command, positional, options), not progress)
    report = json.loads(document)
    # `diff` may end with a code that is no error.
    if "error" in report:
        _raise(code, document)
    return report


def pack(
    model: Path,
    output: Path,
    *,
    cap: Union[int, str],
    include: Files = (),
    bundle: Optional[Path] = None,
    config: Optional[Path] = None,
    ties: Optional[Path] = None,
    retie: Optional[str] = None,
    calib: Files = (),
    val: Files = (),
    tokenizer: Optional[Path] = None,
    statistics: Optional[Path] = None,
    effort: Optional[str] = None,
    lossless: bool = False,
    seed: Optional[int] = None,
    threads: Optional[int] = None,
    no_eval: bool = False,
    no_cache: bool = False,
    force: bool = False,
    progress: bool = False,
    **options: Any,
) -> Dict[str, Any]:
    """Packs a model under a byte cap, reopens the file, and returns the verdict.

    `model` is a folder or a weights file, `cap` a number of bytes or a text such as "16MB"; `include`, `calib` and `val` are one
    file or several. Files that tiepack did not write are replaced only with `force`. Other options are those of `tiepack pack`
    with underscores, as `calib_rows=512`. `progress` shows bars on stderr.
    """
    options.update(
        output=output, cap=cap, include=include, bundle=bundle, config=config, ties=ties, retie=retie, calib=calib, val=val,
        tokenizer=tokenizer, statistics=statistics, effort=effort, lossless=lossless, seed=seed, threads=threads,
        no_eval=no_eval, no_cache=no_cache, force=force)
    return _run("pack", [model], options, progress)


def evaluate(model: Path, *, progress: bool = False, **options: Any) -> Dict[str, Any]:
    """The loss of a model or an artifact on validation tokens: `tiepack eval`, with its options."""
    return _run("eval", [model], options, progress)


def verify(artifact: Path, *, against: Optional[Path] = None, progress: bool = False, **options: Any) -> Dict[str, Any]:
    """Checks an artifact's hashes and, with `against`, what it costs against its model: `tiepack verify`."""
    return _run("verify", [artifact], dict(options, against=against), progress)


def inspect(model: Path, *, against: Optional[Path] = None, progress: bool = False, **options: Any) -> Dict[str, Any]:
    """Where every byte of a model or an artifact goes and, with `against`, what each error costs: `tiepack inspect`."""
    return _run("inspect", [model], dict(options, against=against), progress)


def diff(before: Path, after: Path, *, val: Files = (), progress: bool = False, **options: Any) -> Dict[str, Any]:
    """Two models or artifacts side by side and, with `val`, their losses: `tiepack diff`, with its options."""
    return _run("diff", [before, after], dict(options, val=val), progress)


def frontier(
    model: Path,
    *,
    caps: Union[int, str, Iterable[Union[int, str]], None] = None,
    points: Optional[int] = None,
    progress: bool = False,
    **options: Any,
) -> Dict[str, Any]:
    """Loss against bytes: packs a model under each of `caps`, or under `points` of them: `tiepack frontier`, with its options."""
    return _run("frontier", [model], dict(options, caps=caps, points=points), progress)


def config(model: Path, **options: Any) -> Dict[str, Any]:
    """A model's configuration, recognised from its tensors where it has none: `tiepack config`, with its options."""
    return _run("config", [model], options, False)


def tokens(text: Files, output: Path, *, tokenizer: Path, progress: bool = False, **options: Any) -> Dict[str, Any]:
    """Writes one text, or several one after the other, as a shard of tokens: `tiepack tokens`, with its options."""
    return _run("tokens", _items(text), dict(options, output=output, tokenizer=tokenizer), progress)


def unpack(artifact: Path, output: Path, *, force: bool = False) -> Dict[str, Any]:
    """Writes an artifact as safetensors, config.json and ties.json: `tiepack unpack`."""
    return _run("unpack", [artifact], {"output": output, "force": force}, False)


def bundle(
    artifact: Path,
    script: Path,
    output: Path,
    *,
    decoder: str = "embed",
    form: Optional[str] = None,
    apart: bool = False,
    nameless: bool = False,
    cap: Union[int, str, None] = None,
    include: Files = (),
    force: bool = False,
) -> Dict[str, Any]:
    """Makes a script that brings an artifact and its decoder along: `tiepack bundle`."""
    options = dict(script=script, output=output, decoder=decoder, form=form, apart=apart, nameless=nameless)
    options.update(cap=cap, include=include, force=force)
    return _run("bundle", [artifact], options, False)


_NUMPY = {
    "f32": "<f4", "f16": "<f2", "f64": "<f8", "bool": "?", "u8": "u1", "i8": "i1", "i16": "<i2", "u16": "<u2", "i32": "<i4", "u32": "<u4",
    "i64": "<i8", "u64": "<u8", "fp8 (e4m3)": "u1", "fp8 (e5m2)": "u1",
}
_TORCH = {
    "f32": "float32", "f16": "float16", "bf16": "bfloat16", "f64": "float64", "bool": "bool", "u8": "uint8", "i8": "int8", "i16": "int16",
    "u16": "uint16", "i32": "int32", "u32": "uint32", "i64": "int64", "u64": "uint64", "fp8 (e4m3)": "float8_e4m3fn",
    "fp8 (e5m2)": "float8_e5m2",
}


class Artifact:
    """A decoded artifact whose tensors were checked against the root in the file.

    `names` gives for each tensor, under the name that it had in the file that was packed, its stored one, so that tied names have
    one number; `shapes`, `types` (f32, f16 or bf16; of a tensor that is no weight as in the file that was packed, bool and i64 among
    them) and `hashes` (blake3 of shape and values, in hexadecimal: formats/artifact.md; of a tensor that is no weight None) are those
    of the stored tensors; `config` is the model's configuration or None, `root` the hash over all of it.
    """

    def __init__(self, path: Path):
        error, loaded = _native.load(path)
        if error:
            _raise(*error)
        names, stored, config, root = loaded
        self.path, self.root = os.fspath(path), root
        self.names: Dict[str, int] = dict(names)
        self.shapes: List[Tuple[int, ...]] = [tuple(shape) for shape, _, _, _ in stored]
        self.types: List[str] = [kind for _, kind, _, _ in stored]
        self.hashes: List[Optional[str]] = [text for _, _, _, text in stored]
        self.config: Optional[Dict[str, Any]] = json.loads(config) if config else None
        self._bytes = [data for _, _, data, _ in stored]

    def layout(self) -> Dict[str, Any]:
        """Where every byte of the file goes: what :func:`inspect` returns."""
        return inspect(self.path)

    def numpy(self) -> Dict[str, np.ndarray]:
        """Arrays by name, tied ones the same object, integers and booleans of their own type.

        bf16 is f32 here (each value as it is) unless ml_dtypes is installed, and fp8 that is no weight its bytes.
        """
        stored = [self._array(i) for i in range(len(self.shapes))]
        return {name: stored[i] for name, i in self.names.items()}

    def torch(self) -> Dict[str, Any]:
        """Tensors by name, tied ones the same object; bf16 kept."""
        import torch

        stored = []
        for shape, kind, data in zip(self.shapes, self.types, self._bytes):
            dtype = getattr(torch, _TORCH[kind])
            tensor = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.zeros(0, dtype=dtype)
            stored.append(tensor.reshape(shape))
        return {name: stored[i] for name, i in self.names.items()}

    def _array(self, i: int) -> np.ndarray:
        if self.types[i] in _NUMPY:
            return np.frombuffer(bytearray(self._bytes[i]), _NUMPY[self.types[i]]).reshape(self.shapes[i])
        words = np.frombuffer(bytearray(self._bytes[i]), "<u2").reshape(self.shapes[i])
        try:
            import ml_dtypes
        except ImportError:
            return (words.astype("<u4") << 16).view("<f4")
        return words.view(ml_dtypes.bfloat16)


def load(path: Path, framework: Optional[str] = None) -> Dict[str, Any]:
    """The tensors of an artifact by name: of torch if it has been imported, else of numpy; or of the `framework` named."""
    if framework not in (None, "numpy", "torch"):
        raise UsageError(f"framework is {framework!r}: wanted 'numpy' or 'torch'", exit_code=2)
    artifact = Artifact(path)
    return artifact.torch() if (framework or ("torch" if "torch" in sys.modules else "numpy")) == "torch" else artifact.numpy()


_bundle: Optional[bytes] = None


def bundled() -> Dict[str, Any]:
    """The tensors of the bundle that runs: see `tiepack bundle --decoder import`."""
    if _bundle is None:
        raise UsageError("this script does not run from a bundle", "make one with `tiepack bundle`", 2)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "bundle.tiepack")
        with open(path, "wb") as file:
            file.write(_bundle)
        return load(path)


def _run_bundle(script: Union[str, bytes], name: str, artifact: bytes, namespace: Dict[str, Any]) -> None:
    """What a bundle does that imports tiepack; those of version 0.2 give the script as text."""
    import importlib.util
    import io
    import linecache
    import traceback

    def shown(kind, error, trace):
        """An exception that nobody caught, from the script on."""
        while trace and trace.tb_frame.f_code.co_filename != name:
            trace = trace.tb_next
        if isinstance(error, SyntaxError) and error.filename == name:
            error.text = linecache.getline(name, error.lineno)
        traceback.print_exception(kind, error, trace)

    global _bundle
    _bundle = artifact
    code = script.encode() if isinstance(script, str) else script
    if namespace["__name__"] == "__main__":
        sys.excepthook = shown
    lines = [*io.StringIO(importlib.util.decode_source(code))]
    linecache.cache[name] = linecache.cache[namespace["__file__"]] = 1, None, lines, name
    exec(compile(code, name, "exec", 0, True), namespace)
