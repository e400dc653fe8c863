"""An echo of a request never contains its secrets, in any encoding."""

import html
import json
import shlex
from dataclasses import replace
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuproxy.model.demands import LaunchSpec, RegistryAuth
from gpuproxy.model.errors import ProviderError
from gpuproxy.providers.secrecy import CUT, cut, secrets_of
from gpuproxy.providers.vast.adapter import VastAi
from tests.providers.test_vast_create import LABEL, OFFER, SPEC
from tests.providers.wires import on_script, says

SECRETS = ["hunter2", 'it\'s "quoted" & <odd>', "a b+c%d", "näive-ключ-🔑", "back\\slash\nline", "50% {x}$"]
ECHOES = [
    str,
    json.dumps,
    lambda text: json.dumps(text, ensure_ascii=False),
    lambda text: json.dumps(json.dumps(text)),
    html.escape,
    lambda text: html.escape(json.dumps(text)),
    quote,
    quote_plus,
    shlex.quote,
    lambda text: json.dumps({"image_login": f"-u me -p {shlex.quote(text)} ghcr.io"}),
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("echo", range(len(ECHOES)))
def test_a_secret_is_removed_in_every_encoding(secret: str, echo: int) -> None:
    said = f"bad value {ECHOES[echo](secret)} of 3"
    left = cut(said, [secret])
    assert CUT in left
    assert not set(secret.split()) & set(left.split())
    assert (left.startswith("bad value "), left.endswith(" of 3")) == (True, True)


@given(st.text(min_size=4, max_size=20), st.sampled_from(range(8)))
def test_any_text_is_removed_in_every_reversible_encoding(secret: str, echo: int) -> None:
    if any("\ud800" <= each <= "\udfff" for each in secret):
        return
    assert CUT in cut(f"[{ECHOES[echo](secret)}]", [secret])


def test_other_text_is_not_changed() -> None:
    assert cut("hunter3 of hunter", ["hunter2", ""]) == "hunter3 of hunter"
    assert secrets_of(LaunchSpec(env=(("A", "1"),), secret_env=(("B", "2"), ("C", "")))) == ("2",)


def test_an_error_that_echoes_the_request_contains_no_secret() -> None:
    login = RegistryAuth(server="ghcr.io", username="me", secret="pull'canary")
    spec = replace(SPEC, secret_env=(("TOKEN", 'env"canary'),), registry_auth=login)
    echo = {
        "success": False,
        "error": "invalid_args",
        "msg": json.dumps({"TOKEN": 'env"canary', "login": "pull'canary"}),
    }

    async def use(adapter: VastAi) -> ProviderError:
        with pytest.raises(ProviderError) as caught:
            await adapter.create(OFFER, spec, LABEL)
        return caught.value

    error, _ = on_script(use, says(echo, 400))
    assert "canary" not in str(error) + error.body
    assert CUT in error.body


@pytest.mark.parametrize(
    ("secret", "echo"),
    [
        ("'" * 30_000, "no echo at all "),
        ("'" * 30_000, "'"),
        ("€" * 10_000, "€"),
        ("\\" * 4 + "x", "\\"),
        ("\\" * 4 + "'", "\\"),
        ("/ab", "\\"),
        ("/'", "\\"),
        ("\\'" * 30, "\\'"),
        ("a'" * 3_000, "a'"),
        ("% % %", "%25"),
    ],
)
def test_the_time_is_proportional_to_the_length_of_the_text(secret: str, echo: str) -> None:
    """A search that reads half a million characters repeatedly would exceed the timeout of the tests."""
    text = (echo * 600_000)[:600_000]
    assert len(cut(text, [secret, secret + "!"])) <= len(text) + len(CUT)


def test_a_long_secret_is_found_by_its_beginning_and_the_rest_is_removed() -> None:
    secret = "-----BEGIN KEY-----\n" + "MIIE/abc+def==\n" * 100
    left = cut(f"bad value {json.dumps(secret)} of 3", [secret])
    assert left == f'bad value "{CUT}'


def test_with_too_many_secrets_the_whole_text_is_removed() -> None:
    assert cut("anything", [f"secret {number}" for number in range(100)]) == CUT
    assert cut("", [f"secret {number}" for number in range(100)]) == ""
