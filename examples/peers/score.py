"""KL(original || packed), loss difference and agreement on validation rows: by PyTorch, or by tiepack where PyTorch's
forward pass is not known here."""
import json
import subprocess
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

import forward
import model as models

BATCH = 8


class Torch:
    """Keeps the original's log-probabilities of the first `rows` rows."""

    name = "PyTorch"

    def __init__(self, model, val, rows):
        length = model.config["train_seq_len"]
        ids = models.tokens(val)
        rows = min(rows, (len(ids) - 1) // length)
        self.model, self.rows = model, rows
        self.x, self.y = ids[: rows * length].view(rows, length), ids[1 : rows * length + 1].view(rows, length)
        self.original = list(self.run(model.whole({})))

    @torch.no_grad()
    def run(self, p):
        for x in self.x.split(BATCH):
            yield F.log_softmax(forward.logits(self.model.config, p, x).double(), -1).float()

    def __call__(self, changed):
        """(KL, loss difference, share of equal top tokens) of weights by stored name."""
        kl = loss = same = count = 0.0
        for before, after, y in zip(self.original, self.run(self.model.whole(changed)), self.y.split(BATCH)):
            kl += (before.exp() * (before - after)).sum(dtype=torch.float64).item()
            picked = lambda lp: lp.gather(-1, y[..., None]).sum(dtype=torch.float64).item()
            loss += picked(before) - picked(after)
            same += (before.argmax(-1) == after.argmax(-1)).sum().item()
            count += y.numel()
        return kl / count, loss / count, same / count


class Tiepack:
    """Lets `tiepack diff` run both: any network that tiepack knows."""

    name = "tiepack diff"

    def __init__(self, model, val, rows, binary):
        self.model, self.val, self.rows, self.binary = model, val, rows, binary

    def __call__(self, changed):
        with tempfile.TemporaryDirectory() as folder:
            self.model.write(Path(folder), changed)
            command = [self.binary, "diff", self.model.folder, folder, "--val", self.val, "--val-rows", self.rows,
                       "--json", "--quiet"]
            done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True)
        cost = json.loads(done.stdout)["evaluation"]["cost"]
        return cost["divergence"]["mean"]["value"], cost["nats_per_token"]["value"], cost["same_top"]
