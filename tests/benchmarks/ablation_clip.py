"""open_clip from its package, trained from scratch on the captions of a world for a given time, and asked for retrieval.

    python -m tests.benchmarks.ablation_clip DATA REPORT SECONDS BATCH SEED

DATA holds shards/. Writes what it found to REPORT, as JSON. Model, loss, tokenizer, normalisation and the groups of weight
decay are open_clip's; lr 1e-3 and weight decay 0.1 those of its README, betas, epsilon and gradient clipping (none) the
defaults of its trainer, the warm-up a tenth of the time, as ours at most. Its trainer counts epochs and not seconds, so the
loop is written here. Towers are as wide and deep as ours. What favours it: images are decoded and texts tokenized before
its time begins, starting the process does not count, and its vocabulary is cut to the words of the corpus, as ours is.

Source: https://github.com/mlfoundations/open_clip#training-clip; open_clip_train's `main.py` and `train.py`. Axes: N images, S
pixels to a side, B images of a batch, L tokens.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from torch import Tensor

from bitgen.evaluation.ranking import Gallery, rank_both
from bitgen.evaluation.retrieval import summarise
from shards.index import ShardIndex

LR, WEIGHT_DECAY, BETAS, EPS = 1e-3, 0.1, (0.9, 0.98), 1e-6
WARMUP_SHARE = 0.1
CONTEXT = 32
"""Tokens of a text, as in our runs."""
MOST_SCALE = math.log(100)
SHAPE: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"layers": 4, "width": 128, "head_width": 32, "patch_size": 14},
    "text_cfg": {"layers": 3, "width": 128, "heads": 4, "context_length": CONTEXT},
}
_ROWS = 256


class Words:
    """open_clip's tokens of texts, numbered anew among those that were seen while training."""

    def __init__(self, tokenize: Callable[[list[str]], Tensor], texts: list[str]) -> None:
        self._tokenize = tokenize
        known = tokenize(texts).unique()  # ascending; 0 pads
        # The end of a text stays the highest number: that is how open_clip finds it. The one below is of unseen tokens.
        self.count = len(known) + 1
        self._number = torch.full((int(known[-1]) + 1,), self.count - 2)
        self._number[known[:-1]] = torch.arange(len(known) - 1)
        self._number[known[-1]] = self.count - 1

    def __call__(self, texts: list[str]) -> Tensor:
        """[len(texts), L]."""
        return self._number[self._tokenize(texts)]


def read(folder: Path) -> tuple[Tensor, list[list[str]], Tensor]:
    """Images [N, 3, S, S] uint8, the captions of each, and its ids [N]."""
    index = ShardIndex.open(folder)
    images, texts = [], []
    for sample, image in (index.read(i) for i in range(len(index))):
        pixels = simplejpeg.decode_jpeg(image, "RGB")
        images.append(torch.from_numpy(pixels).permute(2, 0, 1))
        texts.append([text.text for text in sample.texts])
    return torch.stack(images), texts, torch.from_numpy(np.array(index.image_ids))


def scale_of_rate(share: float) -> float:
    """The share of the full rate when `share` of the time is over: linear warm-up, then a cosine to 0."""
    if share < WARMUP_SHARE:
        return share / WARMUP_SHARE
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (share - WARMUP_SHARE) / (1 - WARMUP_SHARE))))


def groups_of(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Parameters without weight decay and with it, as open_clip's trainer has them."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    plain = [p for n, p in named if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n]
    rest = [p for _, p in named if all(p is not other for other in plain)]
    return [{"params": plain, "weight_decay": 0.0}, {"params": rest, "weight_decay": WEIGHT_DECAY}]


def run(data: Path, seconds: float, batch: int, seed: int) -> dict[str, Any]:
    """Its retrieval of the test scenes, and how much it saw."""
    import open_clip  # pyright: ignore[reportMissingImports] (in an environment of its own)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, texts, _ = read(data / "shards/coarse/shapes-train")
    torch.manual_seed(seed)
    words = Words(open_clip.SimpleTokenizer(context_length=CONTEXT), [text for each in texts for text in each])
    side = images.shape[-1]
    model: Any = open_clip.CLIP(
        SHAPE["embed_dim"],
        {**SHAPE["vision_cfg"], "image_size": side},
        {**SHAPE["text_cfg"], "vocab_size": words.count},
    )
    model = model.to(device).train()
    mean, std = (
        torch.tensor(each, device=device)[:, None, None]
        for each in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )

    def normalised(pixels: Tensor) -> Tensor:
        return (pixels.to(device).float() / 255 - mean) / std

    tokens = [words(each) for each in texts]
    loss_of, optimizer = open_clip.ClipLoss(), torch.optim.AdamW(groups_of(model), lr=LR, betas=BETAS, eps=EPS)
    steps, losses = 0, list[float]()
    began_s = time.perf_counter()
    while (share := (time.perf_counter() - began_s) / seconds) < 1:
        for rows in torch.randperm(len(images))[: len(images) // batch * batch].split(batch):
            if (share := (time.perf_counter() - began_s) / seconds) >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = LR * scale_of_rate(share)
            picked = torch.stack([tokens[i][int(torch.randint(len(tokens[i]), ()))] for i in rows.tolist()])
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                features = model(normalised(images[rows]), picked.to(device))
                loss = loss_of(*features)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, MOST_SCALE)
            steps += 1
            losses.append(float(loss.detach()))
    took_s = time.perf_counter() - began_s
    model.eval()
    retrieval = {}
    with torch.inference_mode():
        for name in ("shapes-test", "shapes-unseen-test"):
            scenes, said, ids = read(data / "shards/eval" / name)
            flat, counts = [text for each in said for text in each], torch.tensor([len(each) for each in said])
            seen = [model.encode_image(normalised(part), normalize=True).cpu() for part in scenes.split(_ROWS)]
            heard = [model.encode_text(part.to(device), normalize=True).cpu() for part in words(flat).split(_ROWS)]
            gallery = Gallery(torch.cat(seen).float(), torch.cat(heard).float(), ids, ids.repeat_interleave(counts))
            retrieval[name] = summarise(*rank_both(gallery), gallery.image_ids, gallery.text_ids)
    return {
        "retrieval": retrieval,
        "seconds": round(took_s, 1),
        "steps": steps,
        "images": steps * batch,
        "parameters": sum(p.numel() for p in model.parameters()),
        "last_loss": round(sum(losses[-20:]) / max(1, len(losses[-20:])), 4),
    }


if __name__ == "__main__":
    found = run(Path(sys.argv[1]), float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    Path(sys.argv[2]).write_text(json.dumps(found))
