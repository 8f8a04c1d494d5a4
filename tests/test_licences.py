"""Which pictures may leave this machine."""

import tomllib
from pathlib import Path

import pytest

from bitgen.licences import may_leave

MANIFESTS = Path(__file__).parents[1] / "manifests"


@pytest.mark.parametrize(
    "licence",
    [
        "CC0",
        "CC0 1.0",
        "CC BY 4.0",
        "CC-BY-SA-4.0",
        "cc by-sa 2.0",
        "Public Domain",
        "http://creativecommons.org/licenses/by/2.0/",
        "https://creativecommons.org/licenses/by-sa/2.0",
        "https://creativecommons.org/publicdomain/zero/1.0/",
        "CC0 1.0: drawn, by a program",
    ],
)
def test_what_anybody_may_pass_on_and_change_may_leave(licence: str) -> None:
    assert may_leave(licence)


@pytest.mark.parametrize(
    "licence",
    [
        "",
        "my own photographs",
        "CC BY-NC 2.0",
        "CC BY-ND 2.0",
        "CC BY-NC-SA 4.0",
        "http://creativecommons.org/licenses/by-nc-sa/2.0/",
        "http://creativecommons.org/licenses/by-nd/2.0/",
        "http://creativecommons.org/licenses/by-nc-nd/2.0/",
        "http://flickr.com/commons/usage/",
        "https://creativecommons.org.example.org/licenses/by/2.0/",
        "CC BY 4.0 for the captions",
        "annotations CC BY 4.0; photographs of their owners",
        "not CC BY 4.0",
        "CC BY 4.0\nphotographs of their owners",
    ],
)
def test_what_is_restricted_or_not_known_may_not(licence: str) -> None:
    assert not may_leave(licence)


def test_of_our_manifests_only_those_say_of_all_their_pictures_that_they_may() -> None:
    read = {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in MANIFESTS.glob("*.toml")}
    found = {name for name, manifest in read.items() if "source" in manifest and may_leave(manifest["licence"])}
    assert found == {"sample", "visual_genome"}
