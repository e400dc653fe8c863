"""Creates at vast.ai: sent at most once, and never refused if a machine may exist."""

import random
import string
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from email.utils import format_datetime
from functools import partial
from typing import Any

import pytest

from gpuproxy import boot
from gpuproxy.model.demands import LaunchSpec, RegistryAuth
from gpuproxy.model.errors import (
    Advice,
    AuthFailed,
    InsufficientFunds,
    InvalidRequest,
    OfferGone,
    OutcomeUnknown,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    Refused,
    Scope,
    Violation,
)
from gpuproxy.ports import HttpNotSent, HttpReplyLost, HttpResponse, Receipt
from gpuproxy.providers.vast.requests import left_out
from tests.providers.wires import KEY, LABEL, OFFER, SPEC, Script, on_script, says, vast
from tests.virtual_time import DAY_ONE, VirtualClock, run_virtual

USERS_KEY = "ssh-ed25519 AAAA it's me"
CREATED = {"success": True, "new_contract": 12345678, "instance_api_key": "d15a"}
TAKEN = {
    "success": False,
    "error": "invalid_args",
    "msg": "error 404/3603: no_such_ask  Instance type by id 7654321 is not available.",
    "ask_id": 7654321,
}


def create(answer: HttpResponse | Exception, spec: LaunchSpec = SPEC) -> tuple[Receipt, Script]:
    return on_script(lambda adapter: adapter.create(OFFER, spec, LABEL), answer)


def error_of(answer: HttpResponse | Exception, spec: LaunchSpec = SPEC) -> ProviderError:
    with pytest.raises(ProviderError) as raised:
        create(answer, spec)
    return raised.value


def body_of(spec: LaunchSpec) -> dict[str, Any]:
    return create(says(CREATED), spec)[1].sent()  # type: ignore[no-any-return]


def objections(spec: LaunchSpec) -> Sequence[Violation]:
    return run_virtual(partial(_objections, spec))


async def _objections(spec: LaunchSpec, clock: VirtualClock) -> Sequence[Violation]:
    return vast(Script(), clock).check_launch(spec)


def noise(size: int, seed: int = 1) -> str:
    """Text that can't be compressed to less than three quarters."""
    return "".join(random.Random(seed).choices(string.ascii_letters + string.digits, k=size))


def test_a_create_is_one_put_that_carries_the_label() -> None:
    receipt, script = create(says(CREATED))
    assert receipt == Receipt(instance_id="12345678")  # type: ignore[arg-type]
    [request] = script.requests
    assert (request.method, request.url) == ("PUT", "https://console.vast.ai/api/v0/asks/7654321/")
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    body = script.sent()
    assert (body["label"], body["image"], body["disk"]) == (LABEL, SPEC.image, 40.0)
    assert (body["price"], body["cancel_unavail"], body["target_state"]) == (None, True, "running")


def test_environment_and_ports_are_one_object() -> None:
    spec = replace(SPEC, env=(("A", "b=c"),), secret_env=(("TOKEN", "t"),), ports=(8000, 22))
    assert body_of(spec)["env"] == {"A": "b=c", "TOKEN": "t", "-p 8000:8000": "1", "-p 22:22": "1"}


@pytest.mark.parametrize(
    ("spec", "runtype", "arguments"),
    [
        (SPEC, "ssh_direc ssh_proxy", None),
        (replace(SPEC, run_mode="jupyter"), "jupyter_direc ssh_direc ssh_proxy", None),
        (replace(SPEC, run_mode="entrypoint", args=("--port", "80")), "args", ["--port", "80"]),
    ],
)
def test_the_run_mode_decides_the_run_type(spec: LaunchSpec, runtype: str, arguments: Sequence[str] | None) -> None:
    body = body_of(spec)
    assert (body["runtype"], body.get("args")) == (runtype, arguments)


@pytest.mark.parametrize("run_mode", ["ssh", "jupyter"])
def test_keys_and_script_are_sent_as_the_boot_script(run_mode: Any) -> None:
    spec = replace(SPEC, run_mode=run_mode, ssh_public_keys=(f"{USERS_KEY}\n",), onstart="echo hi")
    assert body_of(spec)["onstart"] == boot.script((USERS_KEY,), "echo hi")
    assert body_of(replace(spec, ssh_public_keys=()))["onstart"] == boot.script((), "echo hi")
    assert body_of(replace(SPEC, run_mode=run_mode))["onstart"] is None


def test_an_entry_point_gets_no_boot_script() -> None:
    body = body_of(replace(SPEC, run_mode="entrypoint", ssh_public_keys=(USERS_KEY,), args=("serve",)))
    assert (body["onstart"], body["args"]) == (None, ["serve"])


def test_a_long_script_that_can_be_compressed_is_sent_within_the_limit() -> None:
    spec = replace(SPEC, ssh_public_keys=(USERS_KEY,), onstart="echo 'a long script'\n" * 2_000)
    script = body_of(spec)["onstart"]
    assert script == boot.fitted(boot.script((USERS_KEY,), spec.onstart), 4_048)
    assert len(script) <= 4_048 < len(spec.onstart)
    assert not objections(spec)


def test_a_script_that_fits_only_without_ours_is_sent_as_it_is() -> None:
    spec = replace(SPEC, ssh_public_keys=(USERS_KEY,), onstart=f"echo {noise(4_043)}")
    assert len(spec.onstart) == 4_048
    assert body_of(spec)["onstart"] == spec.onstart
    assert not objections(spec)
    [violation] = objections(replace(spec, onstart=f"{spec.onstart}x"))
    assert violation.field == "onstart"
    [violation] = objections(replace(spec, onstart=f"ü{spec.onstart[1:]}"))  # 4,048 characters, but more bytes
    assert violation.field == "onstart"


def test_the_boot_script_is_sent_wherever_it_fits() -> None:
    spec = replace(SPEC, ssh_public_keys=(USERS_KEY,), onstart=f"echo {noise(1_500)}")
    assert body_of(spec)["onstart"] == boot.script((USERS_KEY,), spec.onstart)
    spec = replace(SPEC, onstart=f"echo {noise(2_800)}")
    assert body_of(spec)["onstart"] == boot.script((), spec.onstart)


def test_keys_are_left_out_if_only_they_make_the_script_too_long() -> None:
    many = tuple(f"ssh-rsa {noise(700, seed)}" for seed in range(8))
    spec = replace(SPEC, ssh_public_keys=many, onstart="echo hi")
    assert body_of(spec)["onstart"] == boot.script((), "echo hi")
    assert body_of(replace(spec, onstart=""))["onstart"] is None
    assert not objections(spec)
    assert many[0] in body_of(replace(spec, ssh_public_keys=many[:1]))["onstart"]


def test_what_is_left_out_is_known() -> None:
    many = tuple(f"ssh-rsa {noise(700, seed)}" for seed in range(8))
    spec = replace(SPEC, ssh_public_keys=(USERS_KEY,), onstart="echo hi", self_ending=True)
    assert left_out(spec) == ()
    assert left_out(replace(spec, ssh_public_keys=many)) == ("keys",)
    assert left_out(replace(spec, onstart=f"echo {noise(2_600)}")) == ("ending", "keys")
    assert left_out(replace(spec, onstart=noise(4_040))) == ("ending", "keys")
    assert left_out(replace(spec, onstart=noise(4_040), self_ending=False, ssh_public_keys=())) == ()
    assert left_out(replace(spec, run_mode="entrypoint")) == ()


@pytest.mark.parametrize(
    ("changes", "field", "text"),
    [
        ({"onstart": noise(40_000)}, "onstart", " characters after compression; vast.ai takes at most 4,048"),
        ({"run_mode": "entrypoint", "onstart": "x"}, "onstart", "run_mode entrypoint"),
        ({"run_mode": "entrypoint", "args": ("x" * 4_000, "y" * 48)}, "args", "are 4,049 characters; vast.ai takes"),
    ],
)
def test_a_launch_that_vast_ai_does_not_accept_is_objected_to_and_never_sent(
    changes: dict[str, Any], field: str, text: str
) -> None:
    spec = replace(SPEC, **changes)
    [violation] = objections(spec)
    assert (violation.field, text in violation.description) == (field, True), violation
    script = Script(says(CREATED))

    async def use(clock: VirtualClock) -> None:
        with pytest.raises(InvalidRequest):
            await vast(script, clock).create(OFFER, spec, LABEL)

    run_virtual(use)
    assert script.requests == []


def test_a_launch_within_the_limits_has_no_objections() -> None:
    for spec in (SPEC, replace(SPEC, run_mode="entrypoint", args=("x" * 4_000, "y" * 47))):
        assert not objections(spec)


def test_a_registry_login_is_sent_in_the_markets_form() -> None:
    login = RegistryAuth(server="ghcr.io", username="me", secret="s3cret")
    assert body_of(replace(SPEC, registry_auth=login))["image_login"] == "-u me -p s3cret ghcr.io"


@pytest.mark.parametrize(
    "answer",
    [
        says(CREATED),
        says({"success": True, "new_contract": "12345678"}),
        says({"success": False, "error": "invalid_args", "msg": "bid is too low", "new_contract": 12345678}, 400),
        says({"success": False, "error": "no_such_ask", "new_contract": 12345678}),
        says({"error": "internal_error", "new_contract": 12345678}, 500),
        says({"error": "rate_limit_exceeded", "new_contract": 12345678}, 429),
    ],
)
def test_an_answer_with_a_contract_id_is_a_created_machine(answer: HttpResponse) -> None:
    assert create(answer)[0].instance_id == "12345678"


REFUSED: list[tuple[object, int, type[Refused]]] = [
    (TAKEN, 400, OfferGone),
    (TAKEN, 404, OfferGone),
    (TAKEN, 200, OfferGone),
    ({"success": False, "error": "no_such_ask", "msg": "error 410/3907: no_such_ask Instance type"}, 410, OfferGone),
    ({"message": "error 410/3907: no_such_ask gone"}, 410, OfferGone),
    (
        {"error": "insufficient_credit", "msg": "Your account lacks credit; see the billing page."},
        400,
        InsufficientFunds,
    ),
    ({"success": False, "error": "insufficient_credit"}, 200, InsufficientFunds),
    ({"success": False, "error": "missing_billing"}, 400, InsufficientFunds),
    ({"detail": "spend_rate_limit: slow down"}, 403, InsufficientFunds),
    ({"success": False, "error": "auth_error", "msg": "Invalid user key"}, 404, AuthFailed),
    ({"success": False, "error": "auth_error", "msg": "This action requires login."}, 403, AuthFailed),
    ({"msg": "Your two-factor session has expired"}, 401, AuthFailed),
    ("unauthorized", 401, AuthFailed),
    ({"success": False, "error": "invalid_args", "msg": "error 400/3467: bad"}, 400, InvalidRequest),
    ({"success": False, "error": "invalid_price"}, 400, InvalidRequest),
    ({"success": False, "error": "no_ssh_key_for_vm"}, 400, InvalidRequest),
    ({"success": False, "error": "invalid_args"}, 200, InvalidRequest),
    ({"detail": "label: too long"}, 422, InvalidRequest),
    ({"success": False, "error": "something_new", "msg": "no"}, 400, InvalidRequest),
    ("API requests too frequent", 429, RateLimited),
    ({"detail": "API requests too frequent endpoint threshold=4.5"}, 429, RateLimited),
    ({"success": False, "error": "rate_limit_exceeded", "msg": "API requests too frequent"}, 200, RateLimited),
]


@pytest.mark.parametrize(("body", "status", "kind"), REFUSED)
def test_a_known_reason_is_a_refusal(body: object, status: int, kind: type[Refused]) -> None:
    error = error_of(says(body, status))
    assert type(error) is kind
    assert error.status == status


UNKNOWN: list[HttpResponse | Exception] = [
    HttpReplyLost("reset"),
    says({"success": False, "error": "internal_error", "msg": "The request could not be processed."}),
    says({"success": False, "error": "resources_unavailable", "msg": "state change queued."}),
    says({"success": True}),
    says({"success": True, "new_contract": None}),
    says({"success": True, "new_contract": True}),
    says({"success": True, "new_contract": 0}),
    says({"success": True, "new_contract": {"id": 1}}),
    says({"success": True, "msg": "no_such_ask"}),
    says({}),
    says([]),
    says("null"),
    says(""),
    says(b"\xff\xfe"),
    says('{"success":true,"new_contract":1234'),
    says("<html>ok</html>"),
    says("<html>not found</html>", 404),
    says("", 410),
    says({}, 400),
    says({"error": "timeout"}, 408),
    says({"error": "conflict"}, 409),
    says("", 302),
    *(says(TAKEN, status) for status in (500, 502, 503, 504)),
    says("<html>bad gateway</html>", 502),
]


@pytest.mark.parametrize("answer", UNKNOWN)
def test_any_other_answer_is_an_unknown_outcome(answer: HttpResponse | Exception) -> None:
    error = error_of(answer)
    assert type(error) is OutcomeUnknown
    assert error.advice is Advice.STOP


def test_a_create_that_was_not_sent_rented_nothing() -> None:
    assert type(error_of(HttpNotSent("connection refused"))) is ProviderUnavailable


@pytest.mark.parametrize("answer", [*UNKNOWN, *(says(body, status) for body, status, _ in REFUSED)])
def test_no_answer_makes_the_adapter_send_a_create_twice(answer: HttpResponse | Exception) -> None:
    script = Script(answer)

    async def use(clock: VirtualClock) -> None:
        with pytest.raises(ProviderError):
            await vast(script, clock).create(OFFER, SPEC, LABEL)

    run_virtual(use)
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("body", "scope", "advice"),
    [
        (TAKEN, Scope.OFFER, Advice.TRY_NEXT),
        ({"error": "insufficient_credit"}, Scope.ACCOUNT, Advice.STOP),
        ({"error": "spend_rate_limit"}, Scope.ACCOUNT, Advice.RETRY_LATER),
        ({"error": "invalid_args"}, Scope.OFFER, Advice.STOP),
        ({"error": "no_ssh_key_for_vm"}, Scope.OFFER, Advice.TRY_NEXT),
        ({"error": "forbidden", "msg": "error 403/3586: another host's machine"}, Scope.HOST, Advice.TRY_NEXT),
    ],
)
def test_a_refusal_has_a_scope_and_advice(body: object, scope: Scope, advice: Advice) -> None:
    error = error_of(says(body, 400))
    assert (error.scope, error.advice) == (scope, advice)


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (says("API requests too frequent", 429), 12),
        (says("API requests too frequent: endpoint threshold=4.5", 429), 12),
        (says("API requests too frequent: endpoint threshold=20", 429), 20),
        (says({"detail": "API requests too frequent endpoint threshold=30.0"}, 429), 30),
        (says("API requests too frequent", 429, retry_after="7"), 7),
        (says("", 429, retry_after=format_datetime(DAY_ONE + timedelta(seconds=90), usegmt=True)), 90),
        (says("", 429, retry_after="1e30"), 300),
        (says("", 429, retry_after="-5"), 0),
        (says("", 429, retry_after="soon"), 12),
        (says("", 429, retry_after="Mon, 01 Jan 2024 00:00:00 +99999999999999999999"), 12),
        (says("API requests too frequent: endpoint threshold=86400", 429), 60),
    ],
)
def test_a_create_that_came_too_early_has_a_retry_after(answer: HttpResponse, seconds: float) -> None:
    error = error_of(answer)
    assert isinstance(error, RateLimited)
    assert error.retry_after == pytest.approx(seconds)


def test_errors_contain_no_secret() -> None:
    login = RegistryAuth(server="ghcr.io", username="me", secret="reg1stry-s3cret")
    spec = replace(SPEC, secret_env=(("HF", "hf-s3cret"),), registry_auth=login)
    echo = {
        "success": False,
        "msg": f"bad: {KEY} hf-s3cret reg1stry-s3cret",
        "instance_api_key": "an-instance-key",
        "env": "x" * 1000,
    }
    for answer in (says(echo, 400), says(echo, 500), says(echo, 429)):
        error = error_of(answer, spec)
        for secret in (KEY, "hf-s3cret", "reg1stry-s3cret", "an-instance-key"):
            assert secret not in f"{error} {error.body} {error!r}"
        assert len(error.body) <= 300


def test_an_error_keeps_the_body_of_the_answer() -> None:
    error = error_of(says(TAKEN, 400))
    assert "Instance type by id 7654321" in error.body
