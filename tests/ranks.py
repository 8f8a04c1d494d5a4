"""What each of two or four processes does in `tests/training/test_distributed.py`, and what one process does in their
place."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, distributed

from bitgen.batch import Batch
from bitgen.objectives.total import Objective, draw
from bitgen.training.config import DataConfig, TrainConfig
from bitgen.training.distributed import agree, any_of, gather, rank, weighted_mean, world
from bitgen.training.guard import Guard
from bitgen.training.loop import train
from bitgen.training.metrics import Meter, TrainingError
from pipeline.roots import open_root
from pipeline.showing import shower
from tests import fakes
from tests.ends import ends
from tests.trainings import after

STEPS = 3
"""Steps of the bare objective; the loop runs 8."""


EVERY = {"itc": 1.0, "itm": 0.5, "text": 0.5, "memory_kl": 0.1, "grounding": 0.5, "region": 1.0}
LOSSES: dict[str, dict[str, Any]] = {
    "itc": {"itc": 1.0},
    "itm": {"itm": 1.0},
    "itm_queue": {"itm": 1.0, "itm_negatives": "queue"},
    "all": EVERY,
    "all_queue": {**EVERY, "itm_negatives": "queue"},
}
"""Those whose gradients are compared, each with a queue of 12 entries, which 8 images a step do not divide."""


def bare_objective(losses: dict[str, Any]) -> Objective:
    """In full precision, so that rounding stays rounding."""
    model = fakes.model(ternary=False)
    for gate in model.gates().values():
        torch.nn.init.constant_(gate, 0.3)
    for name, parameter in model.vision.lora_parameters():
        torch.nn.init.normal_(parameter, std=0.1 if "lora_B" in name else 0.01)
    data = DataConfig(image_px=fakes.SIDE, max_tokens=16)
    objective = Objective(model, fakes.losses(**losses, queue=12, episode=3, episode_rows=8, episode_share=0.6), data)
    if objective.token_queue is not None:
        objective.token_queue.float()  # bfloat16 makes of a last digit's difference one of 0.4%
    return objective


def joined(step: int) -> Batch:
    """8 images, two of one photograph on different ranks, the last with fewer phrases, or none on the last of four ranks."""
    batch = fakes.fake_batch(8, seed=step, image_ids=[1, 2, 3, 4, 5, 2, 7, 8], texts=2)
    few = torch.arange(len(batch.phrase_text)) < 21
    fields = {name: getattr(batch, name)[few] for name in ("phrase_text", "phrase_slot", "phrase_tokens", "boxes")}
    return replace(batch, **fields, box_phrase=torch.arange(21))


def gradients(losses: dict[str, Any]) -> dict[str, Tensor]:
    """After three steps without an update: the mean over ranks of every gradient, and this rank's queues and draws."""
    objective = bare_objective(losses)
    objective.requires_grad_(True)
    found: dict[str, Tensor] = {}
    for step in range(STEPS):
        objective.zero_grad(set_to_none=True)
        batch = fakes.part(joined(step), rank(), world())
        draws = draw(5, step, len(batch.keys), fakes.PATCHES, torch.device("cpu"))
        objective(batch, draws)["loss"].backward()
        found[f"draws.{step}"] = torch.cat([draws.negatives, draws.episode[:, None], draws.patches], dim=1)
    for name, parameter in objective.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if world() > 1:
            distributed.all_reduce(gradient)
        found[f"gradient.{name}"] = gradient / world()
    return found | {name: value for name, value in objective.state_dict().items() if not name.startswith("model.")}


def stream() -> Iterator[Batch]:
    """This rank's rows of an endless stream of 4 images a micro-step."""
    for batch in fakes.endless(4):
        yield fakes.part(batch, rank(), world())


def trained(config: TrainConfig, run: Path) -> dict[str, Tensor]:
    """The final weights and queues of a whole run."""
    run.mkdir(parents=True, exist_ok=True)
    objective = fakes.objective(config)
    train(objective, fakes.state(config, objective), stream(), run)
    return {name: value.clone() for name, value in objective.state_dict().items()}


def phases() -> dict[str, TrainConfig]:
    """A coarse run with its thaw, a shorter one with a queue of token states, and a fine one, which accumulates."""
    exact = {"ternary": False}
    queued = {"episode": 2, "episode_rows": 2, "itm_negatives": "queue"}
    return {
        "queued": fakes.config("coarse", model=exact, loss=queued, optim={"epochs": 1}),
        "coarse": fakes.config("coarse", model=exact, loss={"episode": 2, "episode_rows": 2}),
        "fine": fakes.config("fine", model=exact, loss={"episode": 2, "episode_rows": 2}, optim={"accumulation": 2}),
    }


def shown(folder: Path) -> dict[str, Tensor]:
    """The final weights and queues of the fine phase, as `phases` has it, with pictures after every other step."""
    data = folder / f"data{rank()}"
    fakes.write_shards(data, "fine/squares")
    config = phases()["fine"]
    config = replace(
        config,
        data=replace(config.data, root=str(data), mixture={"fine/squares": 1.0}),
        run=replace(config.run, show_every=2),
    )
    objective = fakes.objective(config)
    run = folder / "shown"
    run.mkdir(exist_ok=True)
    show = shower(config, objective.model, "0" * 64, open_root(config.data))
    result = train(objective, fakes.state(config, objective), stream(), run, show=show)
    return {"shown.step": torch.tensor(result.state.step)} | {
        f"shown.{name}": value for name, value in objective.state_dict().items()
    }


def impatient(run: Path) -> int:
    """The step at which a run ends whose figure never rises on rank 0, and always does on rank 1."""
    run.mkdir(parents=True, exist_ok=True)
    config = fakes.config("fine", run={"validate_every": 0.25, "patience": 2})
    objective = fakes.objective(config)
    figures = iter(range(100))
    result = train(
        objective, fakes.state(config, objective), stream(), run, validate=lambda: (next(figures) * rank(), {})
    )
    return result.state.step


def asked(run: Path) -> str:
    """Why and at which step a run ends that rank 1 alone is asked to stop."""
    run.mkdir(parents=True, exist_ok=True)
    objective = fakes.objective(config := phases()["fine"])
    should_stop = after(3) if rank() == 1 else lambda: False
    result = train(objective, fakes.state(config, objective), stream(), run, should_stop=should_stop)
    return f"{result.reason} at {result.state.step}"


def ends_alike() -> dict[str, bool]:
    """What ends a run on this rank, or leaves a step out, where only another has the figure for it."""
    figures = {"loss": torch.tensor(torch.nan if rank() == 1 else 1.0)}
    guard, meter = Guard(fakes.objective(fakes.config("fine")), 1), Meter({})
    guard.begin()
    found = {"left_out": guard.refuses(figures)}
    meter.add(1, figures, ("a",))
    try:
        meter.check()
    except TrainingError:
        found["not_finite"] = True
    return found


def compared() -> dict[str, Tensor]:
    """Gradients, queues and draws by the name of their losses."""
    return {f"{name}.{key}": value for name, losses in LOSSES.items() for key, value in gradients(losses).items()}


def everything(folder: Path) -> dict[str, Tensor]:
    """All that is compared between two ranks and one, by name."""
    found = compared()
    for phase, config in phases().items():
        found |= {f"{phase}.{name}": value for name, value in trained(config, folder / phase).items()}
    rows = torch.arange(6.0).view(2, 3) + 10 * rank()
    found["gathered"] = gather(rows)
    found["gathered_bool"] = gather(rows > 3)
    found["mean"] = weighted_mean(torch.tensor([1.0, 2.0]) + 10 * rank(), torch.tensor([1.0, 3.0 * rank()]))
    found["agreed"] = torch.tensor([agree(rank() == 1, rows.device), agree(False, rows.device)])
    found["any"] = any_of(torch.tensor([rank() == 0, rank() == 1, False]))
    found |= {f"ended.{name}": torch.tensor(value) for name, value in ends_alike().items()}
    found["impatient"] = torch.tensor(impatient(folder / "impatient"))
    return found


def work(number: int, folder: str) -> None:
    """Process `number` of four: first they are four ranks, whose gradients are compared; then two are, which do it all."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for ranks in (4, 2):
        if number < ranks:
            meeting = f"file://{folder}/meet{ranks}"
            distributed.init_process_group("gloo", init_method=meeting, rank=number, world_size=ranks)
            found = compared() if ranks == 4 else everything(Path(folder) / "two")
            if ranks == 2:
                found |= shown(Path(folder) / "two")
                ended = {**ends(Path(folder) / "ends"), "asked": asked(Path(folder) / "asked")}
                (Path(folder) / f"ends{number}.json").write_text(json.dumps(ended))
            tensors = {name: value.contiguous().clone() for name, value in found.items()}
            save_file(tensors, Path(folder) / f"rank{number}of{ranks}.safetensors")
            distributed.destroy_process_group()
