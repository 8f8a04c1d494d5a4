"""`make bench`: every benchmark that needs no data of a user's, or the one that is named; then the page of all results.

python -m tests.benchmarks.run [NAME] [options of that benchmark]
"""

import sys

from tests.benchmarks import ablations, edge, features, learn, loader, photographs, report, shards, train_step
from tests.benchmarks.harness import BenchError

BENCHES = {
    "ablations": ablations.main,
    "features": features.main,
    "learn": learn.main,
    "edge": edge.main,  # after the run that it asks what an export costs
    "loader": loader.main,
    "photos": photographs.main,
    "shards": shards.main,
    "train_step": train_step.main,
}
BY_NAME_ONLY = ("photos",)
"""What cannot run without a folder that it is given."""


def main(arguments: list[str]) -> int:
    """0 done, 1 failed, 2 wrong use."""
    names = [name for name in BENCHES if name not in BY_NAME_ONLY]
    if arguments and not arguments[0].startswith("-"):
        names, arguments = arguments[:1], arguments[1:]
    if names[0] not in BENCHES:
        print(f"bench: expected one of {', '.join(BENCHES)}, found {names[0]!r}", file=sys.stderr)
        return 2
    try:
        for name in names:
            BENCHES[name](arguments)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    report.main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
