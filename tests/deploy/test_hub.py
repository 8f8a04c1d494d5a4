"""Files to a hub: in one commit, private unless asked otherwise, and a failure in words."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from bitgen.deploy.hub import HubError, check, push
from tests.hubs import Hub, serve

TOKEN = "hf_of_this_test"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # large files by Git LFS, in plain HTTP
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serve(TOKEN) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def test_files_arrive_in_one_commit_byte_for_byte(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(range(256)) * 1000)
    files = {"model.safetensors": tmp_path / "weights", "README.md": b"# a model\n"}
    assert push("me/tiny", files, "a run", is_private=True) == f"{hub.url}/me/tiny"
    assert hub.commits == [{"model.safetensors": bytes(range(256)) * 1000, "README.md": b"# a model\n"}]


@pytest.mark.parametrize(("is_private", "visibility"), [(True, "private"), (False, "public")])
def test_a_new_repository_is_as_private_as_it_was_asked_to_be(hub: Hub, is_private: bool, visibility: str) -> None:
    push("me/tiny", {"README.md": b"#"}, "a run", is_private=is_private)
    asked = hub.made[0]
    assert (asked["organization"], asked["name"]) == ("me", "tiny")
    assert asked.get("visibility", "private" if asked.get("private") else "public") == visibility


def test_nothing_private_goes_into_a_public_repository_that_is_there(hub: Hub) -> None:
    hub.is_public = True
    with pytest.raises(HubError, match=r"expected a private repository, found a public one .*: me/tiny"):
        push("me/tiny", {"README.md": b"#"}, "a run", is_private=True)
    assert hub.commits == []
    push("me/tiny", {"README.md": b"#"}, "a run", is_private=False)
    assert len(hub.commits) == 1


@pytest.mark.parametrize("where", ["/create", "/preupload/", "/objects/batch", "/commit/"])
def test_a_push_that_is_refused_at_any_point_commits_nothing(hub: Hub, where: str) -> None:
    hub.refuses = where
    with pytest.raises(HubError, match=r"^expected the hub to take 1 files, found .*: me/tiny$") as error:
        push("me/tiny", {"model.safetensors": b"weights"}, "a run", is_private=True)
    assert hub.paths[-1].count(where) == 1
    assert hub.commits == []
    assert TOKEN not in str(error.value)


def test_another_token_is_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(HubError, match="401"):
        push("me/tiny", {"README.md": b"#"}, "a run", is_private=True)


def test_a_hub_that_is_not_there_is_said_in_words(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"^expected the hub to take 1 files, found .*: me/tiny$"):
        push("me/tiny", {"README.md": b"#"}, "a run", is_private=True)


@pytest.mark.parametrize(
    "name", ["tiny", "me/", "/tiny", "me/tiny/more", "me/../tiny", "me/ti ny", "https://hub/me/tiny"]
)
def test_what_is_no_repository_is_refused(hub: Hub, name: str) -> None:
    with pytest.raises(HubError, match="expected a repository as owner/name, found"):
        check(name)


def test_a_push_without_a_token_is_refused_before_anything_is_asked(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(HubError, match=r"expected a token of the hub in HF_TOKEN, or from `hf auth login`, found none"):
        check("me/tiny")
    assert hub.paths == []
