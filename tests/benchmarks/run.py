"""`make bench`: every benchmark, or the one that is named; then the page of all results.

python -m tests.benchmarks.run [NAME] [options of that benchmark]
"""

import sys

from tests.benchmarks import features, learn, loader, report, shards, train_step

BENCHES = {
    "features": features.main,
    "learn": learn.main,
    "loader": loader.main,
    "shards": shards.main,
    "train_step": train_step.main,
}


def main(arguments: list[str]) -> int:
    """0 done, 2 wrong use."""
    names = list(BENCHES)
    if arguments and not arguments[0].startswith("-"):
        names, arguments = arguments[:1], arguments[1:]
    if names[0] not in BENCHES:
        print(f"bench: expected one of {', '.join(BENCHES)}, found {names[0]!r}", file=sys.stderr)
        return 2
    for name in names:
        BENCHES[name](arguments)
    report.main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
