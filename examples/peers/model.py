"""A model folder as the packers see it: every distinct tensor once, and what it stands for.

The folder holds model.safetensors, config.json, ties.json and token shards, as README.md of the project describes them.
"""
import json
import pathlib
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import load_file, save_file

HEADER, MAGIC = 256, 20240520


def tokens(path):
    """The token ids of a shard: 256 little-endian int32 (magic, version 1, number), then uint16."""
    header = np.fromfile(path, "<i4", HEADER)
    ids = np.fromfile(path, "<u2", offset=4 * HEADER)
    assert header[0] == MAGIC and header[1] == 1 and header[2] == len(ids), f"{path} is not a token shard"
    return torch.from_numpy(ids.astype(np.int64))


@dataclass
class Model:
    folder: pathlib.Path
    config: dict
    tensors: dict  # every name: tensor, in its own type
    stored: list  # names of the distinct tensors, in the order of the file
    alias: dict  # every name: the stored name

    @property
    def matrices(self):
        return [name for name in self.stored if self.tensors[name].ndim == 2 and min(self.tensors[name].shape) >= 8]

    @property
    def vectors(self):
        matrices = set(self.matrices)
        return [name for name in self.stored if name not in matrices]

    @property
    def weights(self):
        return sum(self.tensors[name].numel() for name in self.matrices)

    def whole(self, changed):
        """All tensors in f32, with `changed` (by stored name) put in wherever they are used."""
        values = {name: changed.get(name, self.tensors[name]).float() for name in self.stored}
        return {name: values[source] for name, source in self.alias.items()}

    def overhead(self):
        """Bytes of what no packer below writes and a file needs: configuration, names, shapes and ties, as brotli of JSON."""
        import brotli
        about = {"config": self.config, "ties": {n: s for n, s in self.alias.items() if n != s},
                 "shapes": {name: list(self.tensors[name].shape) for name in self.stored}}
        return len(brotli.compress(json.dumps(about, separators=(",", ":")).encode(), quality=11))

    def write(self, folder, changed):
        """The model with changed weights as a folder that tiepack reads."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: t.contiguous().clone() for name, t in self.whole(changed).items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(self.config))
        if (self.folder / "ties.json").exists():
            (folder / "ties.json").write_bytes((self.folder / "ties.json").read_bytes())


def load(folder):
    """Reads a model folder; tensors that are equal bit for bit are stored once."""
    folder = pathlib.Path(folder)
    tensors = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    seen, alias, stored = {}, {}, []
    for name, tensor in tensors.items():
        # Small tensors that happen to be equal are not shared by design.
        key = (tensor.shape, tensor.dtype, tensor.view(torch.uint8).numpy().tobytes()) if tensor.numel() >= 1024 else name
        alias[name] = seen.setdefault(key, name)
        if alias[name] == name:
            stored.append(name)
    return Model(folder, config, tensors, stored, alias)
