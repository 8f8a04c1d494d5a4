"""Figures of the arms, their means over seeds, and what they say of the claims of this design."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Figures = Mapping[str, float]
ALL = ("t2i_r1", "i2t_r1", "acc50", "mean_iou", "pointing", "caption_f1")
MEANINGS = {
    "t2i_r1": "retrieval, captions whose scene is the first",
    "i2t_r1": "retrieval, scenes for which one of their captions is the first",
    "acc50": "grounding, phrases whose box has an IoU of 0.5 or more",
    "mean_iou": "grounding, mean IoU",
    "pointing": "grounding, phrases whose hottest patch lies in their box",
    "shuffled_acc50": "acc50 given another phrase's words",
    "caption_f1": "F1 of the (colour, shape) pairs that captions say",
    "caption_shuffled_f1": "likewise of another scene's captions",
    "own_8": "captions recalled of 8 written under half of their image, by its other half",
    "own_8_nearest": "likewise by the nearest key",
    "own_8_empty": "likewise where nothing was written: what the model tells without a memory",
    "other_8": "captions recalled of 8 written under half of another's image, by its other half",
    "other_8_nearest": "likewise by the nearest key",
    "other_8_empty": "likewise where nothing was written",
    "naming_1": "pictures of unseen pairs named right after one of each name, 8 names",
    "naming_1_cache": "likewise by the nearest key of a cache as large as the memory",
    "naming_1_reading": "likewise from what the memory alone reads",
    "naming_16": "likewise after 16 of each name, by the memory's surest name",
    "naming_16_cache": "likewise by the cache, which holds the last pictures",
    "naming_16_reading": "likewise from what the memory alone reads",
    "images_per_s": "of the training commands, from start to end",
    "images": "seen by open_clip in its time",
    "parameters": "of the model",
}


@dataclass(frozen=True)
class Claim:
    """That `first` scores more than `second`, or as much, in `figures`."""

    said: str
    first: str
    second: str
    figures: tuple[str, ...] = ALL
    """Names; `mine/theirs` where the two are called differently."""
    as_good: bool = False
    """Whether not to be worse is all that is claimed."""


CLAIMS: dict[str, Claim] = {
    "curriculum": Claim("Coarse, then fine is better than as many steps of fine alone", "base", "fine_only"),
    "lora_warmup": Claim(
        "Adapters that are frozen at first end better than adapters that train from the start",
        "lora_warmup",
        "lora_no_warmup",
    ),
    "gates": Claim("Cross-attention behind a gate is better than attention over both", "base", "concat"),
    "episodes": Claim(
        "Episodes while training make a memory that recalls more, and cost captions nothing",
        "base",
        "memory_off",
        ("own_8", "other_8", "naming_1", "naming_16_reading", "caption_f1", "t2i_r1"),
    ),
    "writing": Claim(
        "What was written is what is recalled, and not what the model tells without it",
        "base",
        "base",
        ("own_8/own_8_empty", "other_8/other_8_empty"),
    ),
    "memory": Claim(
        "The memory recalls and names no worse than the nearest key does",
        "base",
        "base",
        (
            "own_8/own_8_nearest",
            "other_8/other_8_nearest",
            "naming_1/naming_1_cache",
            "naming_16/naming_16_cache",
            "naming_1_reading/naming_1_cache",
            "naming_16_reading/naming_16_cache",
        ),
        as_good=True,
    ),
    "ternary": Claim("Ternary layers lose nothing to full precision", "base", "full_precision", as_good=True),
    "queue": Claim("A queue of 4,096 is better than none", "coarse_queue", "coarse_only", ("t2i_r1", "i2t_r1")),
    "region": Claim(
        "Region-phrase contrast makes grounding better", "base", "no_region", ("acc50", "mean_iou", "pointing")
    ),
    "words": Claim(
        "Words told from their regions make grounding and captions better", "base", "no_words", ("acc50", "caption_f1")
    ),
    "other_losses": Claim(
        "Matching and captions beside it do not cost contrast", "coarse_only", "contrast_only", ALL[:2], as_good=True
    ),
    "open_clip": Claim(
        "The coarse phase retrieves better than open_clip in the same time", "coarse_only", "open_clip", ALL[:2]
    ),
    "open_clip_32": Claim("Likewise, open_clip in batches of 32", "coarse_only", "open_clip_32", ALL[:2]),
}


def figures(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Of one arm and seed; `found` are its files by kind: `eval` and `asked`, or `clip`."""
    if "clip" in found:
        retrieval = found["clip"]["retrieval"]["shapes-test"]
        return {
            "t2i_r1": retrieval["t2i"]["r1"],
            "i2t_r1": retrieval["i2t"]["r1"],
            "images": found["clip"]["images"],
            "parameters": found["clip"]["parameters"],
        }
    sets, asked = found["eval"]["heldout"]["datasets"], found["asked"]
    retrieval = sets["eval/shapes-test"]["retrieval"]
    scores = {
        "t2i_r1": retrieval["t2i"]["r1"],
        "i2t_r1": retrieval["i2t"]["r1"],
        "caption_f1": asked["captions"]["f1"],
        "caption_shuffled_f1": asked["captions"]["shuffled_f1"],
        "parameters": found["eval"]["parameters"],
    }
    if grounding := sets.get("eval/shapes-grounded-test", {}).get("grounding"):
        scores |= {name: grounding[name] for name in ("acc50", "mean_iou", "pointing")}
        scores["shuffled_acc50"] = grounding["controls"]["shuffled_text"]["acc50"]
    for kind in ("own", "other"):
        if eight := asked["recall"][kind].get("8"):
            scores[f"{kind}_8"] = eight["held_out_key"]
            scores |= {f"{kind}_8_nearest": eight["nearest_key"], f"{kind}_8_empty": eight["empty"]}
    for shots in ("1", "16"):
        named = asked["naming"]["unseen"][shots]
        scores[f"naming_{shots}"] = named["recall"]
        scores |= {f"naming_{shots}_{who}": named[who] for who in ("cache", "reading")}
    return scores


def means(of_seeds: Sequence[Figures]) -> dict[str, dict[str, float]]:
    """`mean` and `spread`, the standard deviation between seeds (0 of one), of each figure."""
    names = of_seeds[0]
    values = {name: [each[name] for each in of_seeds] for name in names}
    return {
        "mean": {name: round(statistics.mean(v), 4) for name, v in values.items()},
        "spread": {name: round(_spread(v), 4) for name, v in values.items()},
    }


def curve_means(of_seeds: Sequence[Mapping[str, Figures]]) -> dict[str, dict[str, dict[str, float]]]:
    """Likewise of curves: by their points."""
    return {point: means([each[point] for each in of_seeds]) for point in of_seeds[0]}


def claimed(by_arm: Mapping[str, Mapping[int, Figures]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Of each claim and figure whose arms have seeds in common: `difference`, first minus second, seed by seed, `spread`,
    the standard deviation of that, `seeds`, how many, and the `verdict`."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, claim in CLAIMS.items():
        first, second = by_arm.get(claim.first, {}), by_arm.get(claim.second, {})
        for figure in claim.figures if set(first) & set(second) else ():
            mine, _, theirs = figure.partition("/")
            seeds = [
                seed for seed in first if seed in second and mine in first[seed] and (theirs or mine) in second[seed]
            ]
            differences = [first[seed][mine] - second[seed][theirs or mine] for seed in seeds]
            if differences:
                found.setdefault(name, {})[mine] = {
                    "difference": round(statistics.mean(differences), 4),
                    "spread": round(_spread(differences), 4),
                    "seeds": len(differences),
                    "verdict": verdict(differences, claim.as_good),
                }
    return found


def verdict(differences: Sequence[float], as_good: bool = False) -> str:
    """`held`, `not held` or `not told apart` of differences between two arms, one for each seed.

    They are told apart where all have one sign and their mean is more than twice its standard error: a rule of thumb, since
    three seeds allow no more. Where not to be worse is all that is claimed, what is not told apart holds.
    """
    mean, error = statistics.mean(differences), _spread(differences) / len(differences) ** 0.5
    one_sign = all(d > 0 for d in differences) or all(d < 0 for d in differences)
    if len(differences) < 2 or not one_sign or abs(mean) <= 2 * error:
        return "held" if as_good and len(differences) > 1 else "not told apart"
    return "held" if mean > 0 else "not held"


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
