"""Uploading to the Hub: only when asked and with a token, checkpoint and card in one commit. The Hub is a stand-in on localhost."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from slim import checkpoint as checkpoints
from slim import registry
from slim.errors import ConfigError, StoreError
from slim.registry import VERSION, Question
from slim.store import Store
from tests import hub_stand_in, registrable
from tests.hub_stand_in import TOKEN, Hub
from tests.registrable import Made, study

NAMES = ("bf16@transformers", "bnb-nf4@transformers", "bnb-int8@transformers")
REPOSITORY = "somebody/tiny-bnb-nf4"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_stand_in.running() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        # The plain protocol for large files, which the stand-in speaks.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MLFLOW_TRACKING_URI"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("SLIM_HOME", str(tmp_path / "home"))
        yield running


@pytest.fixture
def made(store: Store, tmp_path: Path, tiny_model: Path, hub: Hub) -> Made:
    return registrable.make(store, tmp_path, tiny_model, "tiny", {name: {} for name in NAMES})


def register(made: Made, run_id: str, **fields: object) -> registry.Registration:
    return registry.register(Question(run_id, **fields), made.store.tracking_uri)  # type: ignore[arg-type]


def test_nothing_is_sent_unless_asked(made: Made, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    found = study(made, tmp_path, {"balanced": NAMES[1], "accuracy-critical": NAMES[0]})
    register(made, found.run_id)
    register(made, found.run_id, push_to_hub="somebody", dry_run=True)
    assert hub.requests == []


def test_without_a_token_nothing_is_sent_and_nothing_registered(made: Made, hub: Hub, tmp_path: Path) -> None:
    found = study(made, tmp_path, {"balanced": NAMES[1]})
    with pytest.raises(ConfigError, match="needs a token"):
        register(made, found.run_id, push_to_hub="somebody")
    assert hub.requests == []
    assert made.store.client.search_registered_models() == []


def test_a_checkpoint_with_its_card_is_one_commit(made: Made, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    found = study(made, tmp_path, {"balanced": NAMES[1]})
    done = register(made, found.run_id, push_to_hub="somebody")
    repository = hub.repositories[REPOSITORY]
    assert repository.private
    (commit,) = repository.commits
    assert done.versions[0].hub == f"{hub.address}/{REPOSITORY}/commit/{commit}"
    version = made.store.client.get_model_version_by_alias("slim-tiny", "balanced")
    assert version.tags[VERSION.HUB] == done.versions[0].hub
    # What arrived is the checkpoint, whole, with the card and nothing of MLflow's.
    arrived = tmp_path / "arrived"
    arrived.mkdir()
    for name, content in repository.files.items():
        (arrived / name).write_bytes(content)
    checkpoints.load(arrived, verify=True)
    assert "MLmodel" not in repository.files
    assert b"# tiny, bnb-nf4" in repository.files["README.md"]

    # Again: nothing changed, so there is no other commit, and the registry stays as it is.
    before = version.last_updated_timestamp
    again = register(made, found.run_id, push_to_hub="somebody")
    assert again.versions[0].hub == done.versions[0].hub
    assert repository.commits == [commit]
    assert made.store.client.get_model_version_by_alias("slim-tiny", "balanced").last_updated_timestamp == before
    # And without pushing, the version still says where it is.
    register(made, found.run_id)
    assert made.store.client.get_model_version_by_alias("slim-tiny", "balanced").tags[VERSION.HUB] == done.versions[0].hub


def test_a_repository_of_ones_own_choice(made: Made, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    found = study(made, tmp_path, {"balanced": NAMES[1], "latency-critical": NAMES[2]})
    with pytest.raises(ConfigError, match="one repository for 2 checkpoints"):
        register(made, found.run_id, push_to_hub="team/model")
    register(made, found.run_id, objectives=("balanced",), push_to_hub="team/model", hub_public=True)
    assert {name: repository.private for name, repository in hub.repositories.items()} == {"team/model": False}
    register(made, found.run_id, push_to_hub="team")
    assert set(hub.repositories) == {"team/model", "team/tiny-bnb-nf4", "team/tiny-bnb-int8"}


@pytest.mark.parametrize("failing", ["/create", "/commit/main"])
def test_a_hub_that_fails_leaves_what_is_registered(
    made: Made, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    found = study(made, tmp_path, {"balanced": NAMES[1]})
    hub.failing = failing
    with pytest.raises(StoreError, match=f"pushing to {REPOSITORY} failed") as caught:
        register(made, found.run_id, push_to_hub="somebody")
    assert TOKEN not in str(caught.value)
    assert "\n" not in str(caught.value)
    version = made.store.client.get_model_version_by_alias("slim-tiny", "balanced")
    assert VERSION.HUB not in version.tags
    hub.failing = None
    assert register(made, found.run_id, push_to_hub="somebody").versions[0].change == "unchanged"
    assert len(hub.repositories[REPOSITORY].commits) == 1
