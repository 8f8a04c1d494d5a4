"""What was found inside a checkpoint, in lines."""

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


def test_a_memory_has_a_line_for_each_number_written() -> None:
    found = evaluate_memory(fakes.model(), [fakes.fake_batch(images=30)], reads=60, resamples=20)
    rows = memory_table([("a set", found)]).rows
    assert [row[0] for row in rows] == [f"a set: {n} written" for n in (1, 2, 4, 8)]
    four, eight = (found["recall"]["other"][n] for n in ("4", "8"))
    assert rows[2][1:4] == (share(four["held_out_key"]), *(share(end) for end in four["interval"]["held_out_key"]))
    assert rows[2][-3] == share(found["novelty"]["4"]["auc"])
    assert (rows[3][-4], rows[3][-3]) == (share(eight["chance"]), "")  # 8 are more than a sixth of 30
    assert naming_table([("a set", found)]).rows[0][:2] == ("a set: 5 names", "60")
    without = {**found, "recall": {"other": {"4": {name: four[name] for name in four if name != "interval"}}}}
    assert memory_table([("a set", without)]).rows[0][2:4] == ("", "")
    forgotten = forgetting_table([("a set", found)])
    assert [row[0] for row in forgotten.rows] == ["a set: forgotten", "a set: kept", "chance"]
    assert forgotten.lesser == (2,)


def test_attention_and_heads_have_a_line_each() -> None:
    model, batch = fakes.model().eval(), fakes.fake_batch()
    looked, masked = evaluate_attention(model, [batch])[0], evaluate_heads(model, [batch])
    table = attention_table([("a set", looked)])
    best = max(looked["ways"]["grounding 0"]["in_box"])
    assert table.rows[1][2] == share(best)
    assert table.rows[2] == ("everywhere alike", "", share(looked["area"]), "", "", "")
    first = masked["heads"][0]
    assert heads_table([("a set", masked)]).rows[0][:2] == (
        f"a set: {first['way']}, head {first['head']}",
        share(first["importance"]),
    )


@torch.no_grad()
def test_costs_are_said_in_lines_of_equal_length() -> None:
    found = evaluate_efficiency(fakes.model().eval(), fakes.SIDE, repetitions=1)
    for table in (efficiency_table(found), size_table(found)):
        assert all(len(row) == len(table.header) for row in table.rows)
        assert plain(table)
    assert efficiency_table(found).rows[0][:2] == ("image encoder", f"{found['flops']['image']:,}")


def test_vectors_have_a_line_with_what_is_between_others_beside_it() -> None:
    found, _ = evaluate_vectors(fakes.model().eval(), [fakes.fake_batch(images=3)])
    table = vectors_table([("a set", found)])
    own, other, gap = (f"{found[name]:.3f}" for name in ("own_cosine", "other_cosine", "gap"))
    assert (table.rows, len(table.header)) == ((("a set", "3", own, other, gap),), 5)


def test_what_is_not_finite_is_a_dash() -> None:
    model, batch = fakes.model().eval(), fakes.fake_batch()
    with torch.no_grad():
        model.grounding.regression.fill_(torch.nan)
    looked, masked = evaluate_attention(model, [batch])[0], evaluate_heads(model, [batch])
    for found in ((looked, masked), without_nonfinite((looked, masked))[0]):
        rows = attention_table([("a set", found[0])]).rows
        assert ("–" in rows[0], rows[1][2:]) == (False, ("–",) * 4)
        rows = heads_table([("a set", found[1])]).rows
        assert rows[0][1] != "–"
    assert masked["base"]["grounding"] != masked["base"]["grounding"]
