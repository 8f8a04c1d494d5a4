"""What was found inside a checkpoint, in lines."""

from typing import Any

import torch

from bitgen.evaluation.attention import evaluate_attention
from bitgen.evaluation.efficiency import evaluate_efficiency
from bitgen.evaluation.finite import without_nonfinite
from bitgen.evaluation.heads import evaluate_heads
from bitgen.evaluation.inside_tables import (
    attention_table,
    efficiency_table,
    forgetting_table,
    heads_table,
    memory_table,
    naming_table,
    size_table,
    vectors_table,
)
from bitgen.evaluation.page import share
from bitgen.evaluation.recall import evaluate_memory
from bitgen.evaluation.tables import plain
from bitgen.evaluation.vectors import evaluate_vectors
from tests import fakes


def ends(found: dict[str, Any], name: str) -> list[Any]:
    return found["interval"][name]


def test_a_memory_has_a_line_for_each_number_written() -> None:
    found = evaluate_memory(fakes.model(), [fakes.fake_batch(images=30)], reads=60, resamples=20)
    rows = memory_table([("a set", found)]).rows
    assert [row[0] for row in rows[::3]] == [f"a set: {n} written" for n in (1, 2, 4, 8)]
    four, eight = (found["recall"]["other"][n] for n in ("4", "8"))
    assert [row[1] for row in rows[6:9]] == [
        share(each) for each in (four["held_out_key"], *ends(four, "held_out_key"))
    ]
    told = found["novelty"]["4"]
    assert [row[-3] for row in rows[6:9]] == [share(each) for each in (told["auc"], *ends(told, "auc"))]
    assert [row[-4] for row in rows[6:9]] == [share(four["chance"]), "", ""]
    assert (rows[9][-4], rows[9][-3]) == (share(eight["chance"]), "")  # 8 are more than a sixth of 30
    naming, five = naming_table([("a set", found)]).rows, found["naming"]["5"]
    assert naming[0][:3] == ("a set: 5 names", "60", share(five["recall"]))
    assert naming[2][:3] == ("95% to", "", share(ends(five, "recall")[1]))
    without = {**found, "recall": {"other": {"4": {name: four[name] for name in four if name != "interval"}}}}
    assert [row[1] for row in memory_table([("a set", without)]).rows] == [share(four["held_out_key"]), "", ""]
    untold = {**without, "novelty": {}}
    assert len(memory_table([("a set", untold)]).rows) == 1
    forgotten, kept = forgetting_table([("a set", found)]), found["forgetting"]["recall"]["kept"]
    names = ["a set: forgotten", "95% from", "95% to", "a set: kept", "95% from", "95% to", "chance"]
    assert [row[0] for row in forgotten.rows] == names
    assert [row[3] for row in forgotten.rows[3:6]] == [share(each) for each in (kept["after"], *ends(kept, "after"))]
    assert forgotten.lesser == (1, 2, 4, 5, 6)
    for table in (memory_table([("a set", found)]), naming_table([("a set", found)]), forgotten):
        assert all(len(row) == len(table.header) for row in table.rows)


def test_attention_and_heads_have_a_line_each() -> None:
    model, batch = fakes.model().eval(), fakes.fake_batch()
    looked, masked = evaluate_attention(model, [batch])[0], evaluate_heads(model, [batch])
    table = attention_table([("a set", looked)])
    best = looked["ways"]["grounding 0"]["best"]
    assert table.rows[3][:3] == (f"a set: grounding 0, head {best['head']}", "8", share(best["in_box"]))
    assert [row[2] for row in table.rows[4:6]] == [share(each) for each in ends(best, "in_box")]
    assert table.rows[6] == ("everywhere alike", "", share(looked["area"]), "", "", "")
    assert table.rows[8][:3] == ("95% to", "", share(ends(looked, "area")[1]))
    assert table.lesser == (1, 2, 4, 5, 6, 7, 8)
    first, rows = masked["heads"][0], heads_table([("a set", masked)]).rows
    assert rows[0][:3] == (f"a set: {first['way']}, head {first['head']}", "4", share(first["importance"]))
    assert [row[2] for row in rows[1:3]] == [share(end) for end in ends(first, "importance")]
    random, shown = masked["random"][first["way"]], {"contrast": 3, "caption": 4, "grounding": 5}[first["loss"]]
    assert rows[3][:3] == ("channels at random", "", "")
    assert [row[shown] for row in rows[3:6]] == [
        f"{each:+.3f}" for each in (random[first["loss"]], *ends(random, first["loss"]))
    ]
    assert heads_table([("a set", masked)]).lesser[:5] == (1, 2, 3, 4, 5)
    assert all(len(row) == len(table.header) for row in table.rows)


@torch.no_grad()
def test_costs_are_said_in_lines_of_equal_length() -> None:
    found = evaluate_efficiency(fakes.model().eval(), fakes.SIDE, repetitions=2)
    for table in (efficiency_table(found), size_table(found)):
        assert all(len(row) == len(table.header) for row in table.rows)
        assert plain(table)
    rows, latency = efficiency_table(found).rows, found["latency"]["image"]
    assert rows[0][:3] == ("image encoder", f"{found['flops']['image']:,}", f"{latency['median_ms']:.2f}")
    assert rows[2] == ("95% to", "", *(f"{ends(latency, name)[1]:.2f}" for name in ("median_ms", "p90_ms")), "")


def test_vectors_have_a_line_with_what_is_between_others_beside_it() -> None:
    found, _ = evaluate_vectors(fakes.model().eval(), [fakes.fake_batch(images=3)])
    table = vectors_table([("a set", found)])
    own, other, gap = (f"{found[name]:.3f}" for name in ("own_cosine", "other_cosine", "gap"))
    assert (table.rows[0], len(table.header)) == (("a set", "3", own, other, gap), 5)
    assert table.rows[1] == (
        "95% from",
        "",
        *(f"{ends(found, name)[0]:.3f}" for name in ("own_cosine", "other_cosine", "gap")),
    )


def test_what_is_not_finite_is_a_dash() -> None:
    model, batch = fakes.model().eval(), fakes.fake_batch()
    with torch.no_grad():
        model.grounding.regression.fill_(torch.nan)
    looked, masked = evaluate_attention(model, [batch])[0], evaluate_heads(model, [batch])
    for found in ((looked, masked), without_nonfinite((looked, masked))[0]):
        rows = attention_table([("a set", found[0])]).rows
        assert ("–" in rows[0], rows[3][2:], rows[4][2:]) == (False, ("–",) * 4, ("–",) * 4)
        rows = heads_table([("a set", found[1])]).rows
        assert rows[0][2] != "–"
    assert masked["base"]["grounding"] != masked["base"]["grounding"]
