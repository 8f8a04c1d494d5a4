"""Which parameters train in a phase, and the optimizer's groups for them."""

from torch import nn
from torch.optim import AdamW

from bitgen.model.bitlinear import BitLinear
from bitgen.model.fusion import Layer
from bitgen.objectives.total import Objective
from bitgen.training.config import OptimConfig


def set_trainable(objective: Objective, lora: bool) -> None:
    """Let exactly those parameters train that a loss of this phase reaches.

    Args:
        lora: whether the vision tower's adapters are thawed.
    """
    model, loss = objective.model, objective.config
    model.vision.set_lora_trainable(lora)
    fuses = bool(loss.itm or loss.grounding)
    for part, trains in {
        model.image_projection: bool(loss.itc),
        model.text_projection: bool(loss.itc),
        model.itc_temperature: bool(loss.itc),
        model.image_pool: bool(loss.itc or loss.text),
        model.match_image: bool(loss.itm),
        model.match_text: bool(loss.itm),
        model.match_head: bool(loss.itm),
        model.memory: bool(loss.text),
        model.reading_projection: bool(loss.text),
        model.decoder: bool(loss.text),
        model.grounding: bool(loss.grounding),
        model.region_temperature: bool(loss.region),
    }.items():
        part.requires_grad_(trains)
    for layer in [*model.image_layers, *model.text.fused_layers]:
        assert isinstance(layer, Layer)
        if layer.gate is not None and layer.cross_attention is not None:
            layer.gate.requires_grad_(fuses)
            layer.cross_attention.requires_grad_(fuses)


def build_optimizer(objective: Objective, config: OptimConfig) -> AdamW:
    """AdamW over everything that may train in this phase, adapters included whether thawed or not.

    Groups: ternary weights, other matrices, vectors with embeddings, gates (the last two without weight decay), adapters. Each
    has its own `scale` of the learning rate. A parameter without gradient has no moments: those of the adapters start at
    the thaw.
    """
    model = objective.model
    ternary = {id(m.weight) for m in model.modules() if isinstance(m, BitLinear) and m.ternary}
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    adapters = {id(p) for _, p in model.vision.lora_parameters()}
    gates = {id(gate) for gate in model.gates().values()}
    groups: dict[str, list[nn.Parameter]] = {"ternary": [], "matrix": [], "vector": [], "gate": [], "lora": []}
    for parameter in objective.parameters():
        if id(parameter) in adapters:
            groups["lora"].append(parameter)
        elif not parameter.requires_grad:
            continue
        elif id(parameter) in gates:
            groups["gate"].append(parameter)
        elif id(parameter) in ternary:
            groups["ternary"].append(parameter)
        # Three axes have only DINOv2's class token, registers and position embeddings.
        elif parameter.ndim in (0, 1, 3) or id(parameter) in embeddings or parameter is model.memory.prior_mean:
            groups["vector"].append(parameter)
        else:
            groups["matrix"].append(parameter)
    scales = {"ternary": config.ternary_lr_scale, "lora": config.lora_lr_scale, "gate": config.gate_lr_scale}
    return AdamW(
        [
            {
                "name": name,
                "params": parameters,
                "scale": scales.get(name, 1.0),
                "weight_decay": 0.0 if name in ("vector", "gate") else config.weight_decay,
            }
            for name, parameters in groups.items()
            if parameters
        ],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        fused=True,
    )
