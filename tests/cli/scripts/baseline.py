"""The first lines of a training script as the challenge's baseline has them, and what such a script does with its weights.

It logs its own code and counts its bytes, is started once for each rank, and hands batches to workers.
"""
from __future__ import annotations

import io
import multiprocessing
import os
import sys
import uuid
from pathlib import Path

import numpy as np
import tiepack


class Hyperparameters:
    run_id = os.environ.get("RUN_ID", str(uuid.uuid4()))
    seed = int(os.environ.get("SEED", 1337))


class Batches:
    """Stands for a data loader: its objects go to workers by pickle."""

    def __init__(self, seed: int):
        self.seed = seed

    def __call__(self, step: int) -> float:
        return float(np.random.default_rng(self.seed + step).random())


def main() -> None:
    code = Path(__file__).read_text(encoding="utf-8")
    with open(sys.argv[0]) as file:
        assert file.read() == code
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    args = Hyperparameters()
    log = io.StringIO()
    print(code, file=log)
    code_bytes = len(code.encode("utf-8"))
    assert code_bytes == Path(__file__).stat().st_size and len(log.getvalue()) == len(code) + 1
    weights = tiepack.bundled()
    multiprocessing.set_start_method("spawn")
    with multiprocessing.Pool(2) as pool:
        batches = pool.map(Batches(args.seed), range(4))
    assert batches == [Batches(args.seed)(step) for step in range(4)]
    total = sum(float(np.abs(tensor).sum(dtype="f8")) for tensor in weights.values())
    print(f"rank {rank} of {world_size}: {code_bytes} bytes of code, {len(weights)} tensors, {total:.6f}")


if __name__ == "__main__":
    main()
