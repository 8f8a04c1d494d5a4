"""What RESULTS.md says of steps on an accelerator that was there for minutes: `results/gpu.json`, before and after a change."""

from collections.abc import Iterator, Mapping
from typing import Any


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """A table of milliseconds a step, and what follows from it."""
    before, after = found["before"], found["after"]
    yield f"Milliseconds a step as written (commit {before['commit']}) and with {after['what']} (commit {after['commit']}):"
    yield ""
    yield "| step | as written | after | times as fast |"
    yield "| --- | --- | --- | --- |"
    for name, ms in before["ms"].items():
        then = after["ms"].get(name)
        more = f"{then:.1f} | {ms / then:.2f}" if then is not None else "not measured |"
        yield f"| {name} | {ms:.1f} | {more} |"
    yield ""
    for name, text in found["notes"].items():
        yield f"- {name}: {text}"
    yield ""
