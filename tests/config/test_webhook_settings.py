"""The settings of webhooks: one target by variables, more in a file; no message quotes a URL or a secret."""

from pathlib import Path

import pytest

from gpuproxy.config.webhooks import targets_of
from gpuproxy.model.webhooks import TOLD, EventType
from gpuproxy.webhooks.posting import secrets_of, without_secrets
from tests.config.test_config import load, refusal
from tests.webhooks.receiving import target

URL, SECRET = "https://user:cnrypassword@ops.example/cnrypath?token=cnrytoken", "cnrysecret-of-sixteen"
BOTH = {"GPUPROXY_WEBHOOK_URL": URL, "GPUPROXY_WEBHOOK_SECRET": SECRET}


def write(folder: Path, text: str, mode: int = 0o600) -> dict[str, str]:
    file = folder / "webhooks.toml"
    file.write_text(text)
    file.chmod(mode)
    return {"GPUPROXY_WEBHOOKS_FILE": str(file)}


def test_the_variables_make_one_target_for_all_events() -> None:
    (only,) = targets_of(load(**BOTH))
    assert (only.name, only.url, only.secrets, only.events) == ("default", URL, (SECRET,), TOLD)
    assert (only.form, only.project) == ("json", "")
    assert targets_of(load()) == ()


def test_events_project_and_several_secrets_can_be_chosen() -> None:
    chosen = {
        "GPUPROXY_WEBHOOK_SECRET": f"{SECRET}, another-secret-of-some-length",
        "GPUPROXY_WEBHOOK_EVENTS": "account.*, reservation.lost",
        "GPUPROXY_WEBHOOK_PROJECT": "research",
    }
    (only,) = targets_of(load(**BOTH | chosen))
    assert only.events == {EventType.ACCOUNT_PAUSED, EventType.ACCOUNT_SILENT, EventType.LOST}
    assert only.secrets == (SECRET, "another-secret-of-some-length")
    assert only.project == "research"


def test_slack_needs_no_secret_and_json_does() -> None:
    (only,) = targets_of(load(GPUPROXY_WEBHOOK_URL=URL, GPUPROXY_WEBHOOK_FORM="slack"))
    assert only.form == "slack"
    assert refusal(GPUPROXY_WEBHOOK_URL=URL).startswith("GPUPROXY_WEBHOOK_SECRET: is missing")


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"GPUPROXY_WEBHOOK_URL": "ftp://cnry.example/x"}, "GPUPROXY_WEBHOOK_URL"),
        ({"GPUPROXY_WEBHOOK_URL": "cnry.example"}, "GPUPROXY_WEBHOOK_URL"),
        ({"GPUPROXY_WEBHOOK_URL": "https://cnry.example:99999/"}, "GPUPROXY_WEBHOOK_URL"),
        ({"GPUPROXY_WEBHOOK_URL": "https://cnry.example/a b"}, "GPUPROXY_WEBHOOK_URL"),
        ({"GPUPROXY_WEBHOOK_URL": ""}, "GPUPROXY_WEBHOOK_URL"),
        ({"GPUPROXY_WEBHOOK_SECRET": "cnryshort"}, "GPUPROXY_WEBHOOK_SECRET"),
        ({"GPUPROXY_WEBHOOK_EVENTS": "pool.lost"}, "GPUPROXY_WEBHOOK_EVENTS"),
        ({"GPUPROXY_WEBHOOK_EVENTS": "pools.*"}, "GPUPROXY_WEBHOOK_EVENTS"),
        ({"GPUPROXY_WEBHOOK_EVENTS": "webhook.test"}, "GPUPROXY_WEBHOOK_EVENTS"),
        ({"GPUPROXY_WEBHOOK_FORM": "xml"}, "GPUPROXY_WEBHOOK_FORM"),
    ],
)
def test_a_wrong_value_stops_the_start_and_is_named_without_a_secret(changes: dict[str, str], place: str) -> None:
    said = refusal(**BOTH | changes)
    assert said.startswith(f"{place}: ")
    assert "cnry" not in said


def test_a_file_has_more_targets(tmp_path: Path) -> None:
    text = f"""
        [[webhook]]
        name = "oncall"
        url = "https://oncall.example/x"
        secrets = ["{SECRET}"]
        events = ["pool.*"]
        project = "p1"

        [[webhook]]
        name = "slack"
        url = "https://hooks.slack.com/services/x"
        form = "slack"
    """
    found = targets_of(load(**BOTH, **write(tmp_path, text)))
    assert [each.name for each in found] == ["default", "oncall", "slack"]
    assert {each.split(".")[0] for each in found[1].events} == {"pool"}
    assert (found[1].project, found[2].events) == ("p1", TOLD)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("cnry = = 1", "not valid TOML"),
        ("[webhook]\nname = 'cnry'", "must have [[webhook]] tables"),
        ("other = 1\n[[webhook]]\nname = 'a'", "must have [[webhook]] tables"),
        ("[[webhook]]\nname = 'a'\nurl = 'https://cnry.example'\nsecret = 'cnry'", "may only have"),
        (
            "[[webhook]]\nname = 'a'\nurl = 'https://cnry.example'\nsecrets = 'cnrysecret'",
            "a list of texts",
        ),
        ("[[webhook]]\nname = 'a b'\nurl = 'https://cnry.example'", "1: name must be"),
        ("[[webhook]]\nname = 'a'\nurl = 5", "url must be a text"),
        ("[[webhook]]\nname = 'a'\nurl = 'cnry'", "1: url: must be https://"),
        ("[[webhook]]\nname = 'a'\nurl = 'https://cnry.example'", "1: secrets: is missing"),
        ("[[webhook]]\nname = 'a'\nurl = 'https://cnry.example'\nform = 'xml'", "form must be json or slack"),
        ("[[webhook]]\nname = 'default'\nurl = 'https://cnry.example'\nform = 'slack'", "two targets have the name"),
    ],
)
def test_a_wrong_file_is_named_with_its_place_and_not_quoted(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ValueError, match=r"^GPUPROXY_WEBHOOKS_FILE: ") as refused:
        targets_of(load(**BOTH, **write(tmp_path, text)))
    assert why in str(refused.value)
    assert "cnry" not in str(refused.value)


def test_a_file_that_others_can_read_or_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="others can read"):
        targets_of(load(**write(tmp_path, "", mode=0o644)))
    with pytest.raises(ValueError, match="can't be read"):
        targets_of(load(GPUPROXY_WEBHOOKS_FILE=str(tmp_path / "missing")))


def test_neither_the_url_nor_a_secret_is_shown() -> None:
    settings = load(**BOTH)
    assert "cnry" not in repr(settings)
    assert "cnry" not in repr(targets_of(settings))
    text = f"Cannot connect to {URL}: /cnrypath?token=cnrytoken user:cnrypassword {SECRET}"
    assert "cnry" not in without_secrets(text, targets_of(settings)[0])
    assert {URL, SECRET, "cnrypassword"} <= secrets_of(targets_of(settings)[0])
    assert without_secrets("status 500", target()) == "status 500"
