"""Secrets of `reserve` reach the server, and are in no output and no error. They need not be arguments."""

import pytest
from google.rpc import code_pb2

from tests.cli.world import Run, World, error

SECRET = "open-sesame"


def test_a_secret_is_taken_from_the_environment_or_from_the_argument(run: Run, world: World) -> None:
    result = run("reserve", "1", "--secret-env", "TOKEN", "--secret-env", "PIN=12=34", TOKEN=SECRET)
    assert dict(world.requests[0].secret_env) == {"TOKEN": SECRET, "PIN": "12=34"}
    assert dict(world.requests[0].env) == {}
    assert (SECRET in result.output, "12=34" in result.output) == (False, False)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("TOKEN", "no variable TOKEN is set in the environment. Set it, or write TOKEN=VALUE"),
        (f"={SECRET}", "needs a name: KEY=VALUE, or KEY to take the value from the environment"),
    ],
)
def test_a_secret_without_a_name_or_a_value_is_wrong_usage(run: Run, world: World, value: str, said: str) -> None:
    result = run("reserve", "1", "--secret-env", value)
    assert (result.exit_code, said in result.stderr, SECRET in result.output) == (2, True, False)
    assert world.requests == []


def test_an_empty_variable_is_a_value(run: Run, world: World) -> None:
    run("reserve", "1", "--secret-env", "TOKEN", TOKEN="")
    assert dict(world.requests[0].secret_env) == {"TOKEN": ""}


@pytest.mark.parametrize(
    ("registry", "meant"),
    [
        ("me@ghcr.io", ("me", "ghcr.io")),
        ("me", ("me", "")),
        ("me@example.org@ghcr.io:5000", ("me@example.org", "ghcr.io:5000")),
    ],
)
@pytest.mark.parametrize("how", [{"GPUPROXY_REGISTRY_SECRET": SECRET}, {"answer": f"{SECRET}\n"}])
def test_the_password_of_a_registry_comes_from_a_variable_or_from_stdin(
    run: Run, world: World, registry: str, meant: tuple[str, str], how: dict[str, str]
) -> None:
    result = run("reserve", "1", "--registry-auth", registry, **how)
    auth = world.requests[0].registry_auth
    assert (auth.username, auth.server, auth.secret) == (*meant, SECRET)
    assert SECRET not in result.output


def test_without_the_option_no_credentials_are_sent(run: Run, world: World) -> None:
    run("reserve", "1", GPUPROXY_REGISTRY_SECRET=SECRET)
    assert not world.requests[0].HasField("registry_auth")


@pytest.mark.parametrize(
    ("registry", "said"),
    [
        ("me@ghcr.io", "no password. Set GPUPROXY_REGISTRY_SECRET, or write it to stdin."),
        ("me@", "must be USER@SERVER, or USER for Docker Hub"),
        ("@ghcr.io", "must be USER@SERVER, or USER for Docker Hub"),
        (f"me:{SECRET}@ghcr.io", "takes no password. Set GPUPROXY_REGISTRY_SECRET, or type it when asked"),
    ],
)
def test_wrong_credentials_are_wrong_usage(run: Run, world: World, registry: str, said: str) -> None:
    result = run("reserve", "1", "--registry-auth", registry)
    assert (result.exit_code, said in result.stderr, SECRET in result.output) == (2, True, False)
    assert world.requests == []


@pytest.mark.parametrize("words", [(), ("--json",), ("--dry-run",)])
@pytest.mark.parametrize("refused", [False, True])
def test_no_output_has_a_secret(run: Run, world: World, words: tuple[str, ...], refused: bool) -> None:
    if refused:
        world.refuse_with = error(code_pb2.INVALID_ARGUMENT, "image: bad", "INVALID_ARGUMENT", {"image": "bad"})
    secrets = ("--secret-env", f"TOKEN={SECRET}", "--registry-auth", "me@ghcr.io")
    result = run("reserve", "1", *secrets, *words, GPUPROXY_REGISTRY_SECRET=SECRET)
    assert (len(world.requests), result.exit_code) == (1, int(refused))
    assert SECRET not in result.output
