"""Creates at vast.ai with a volume, and creates of stopped machines."""

import random
import string
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from gpuproxy import boot
from gpuproxy.model.demands import LaunchSpec, VolumeMount
from gpuproxy.model.errors import InvalidRequest, OfferGone, OutcomeUnknown, ProviderError, Violation, VolumeInUse
from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.dialects.vast import errors as said
from tests.providers.wires import LABEL, OFFER, SPEC, Script, on_script, says, vast
from tests.virtual_time import VirtualClock, run_virtual

MOUNT = VolumeMount(volume_id="V.20118481", path="/data")
MOUNTING = replace(SPEC, volume=MOUNT)
CREATED = says({"success": True, "new_contract": 12345678})


def body_of(spec: LaunchSpec) -> Any:
    return on_script(lambda adapter: adapter.create(OFFER, spec, LABEL), CREATED)[1].sent()


def objections(spec: LaunchSpec) -> Sequence[Violation]:
    async def use(clock: VirtualClock) -> Sequence[Violation]:
        return vast(Script(), clock).check_launch(spec)

    return run_virtual(use)


def noise(size: int, seed: int = 1) -> str:
    """Text that can't be compressed much."""
    return "".join(random.Random(seed).choices(string.ascii_letters + string.digits, k=size))


def error_of(answer: HttpResponse, spec: LaunchSpec = MOUNTING) -> ProviderError:
    with pytest.raises(ProviderError) as raised:
        on_script(lambda adapter: adapter.create(OFFER, spec, LABEL), answer)
    return raised.value


def test_a_create_with_a_volume_names_the_existing_one_and_its_path() -> None:
    assert body_of(MOUNTING)["volume_info"] == {"create_new": False, "volume_id": 20118481, "mount_path": "/data"}


def test_a_create_without_a_volume_says_nothing_of_one() -> None:
    assert "volume_info" not in body_of(SPEC)


def test_a_machine_is_created_stopped_only_where_its_gpus_are_free() -> None:
    body = body_of(replace(SPEC, stopped=True))
    assert (body["target_state"], body["cancel_unavail"]) == ("stopped", True)


@pytest.mark.parametrize("volume_id", ["", "12345x", "C.5", "V.", "V.-5", "V.0"])
def test_an_id_that_is_no_volume_is_refused_without_a_request(volume_id: str) -> None:
    with pytest.raises(InvalidRequest):
        body_of(replace(SPEC, volume=replace(MOUNT, volume_id=volume_id)))


# -- the lock


LOCKED = replace(SPEC, volume=replace(MOUNT, nonce="n0nce", founds=True, wait_seconds=45), onstart="serve")


@pytest.mark.parametrize("onstart", ["serve", ""])
def test_with_a_nonce_the_boot_script_takes_the_lock(onstart: str) -> None:
    spec = replace(LOCKED, onstart=onstart)
    assert body_of(spec)["onstart"] == boot.fitted(boot.script((), onstart, lock=spec.volume), 4_048)
    assert "gp_lock '/data' n0nce 45 founds" in boot.script((), onstart, lock=spec.volume)


def test_without_a_nonce_it_waits_for_nothing() -> None:
    spec = replace(MOUNTING, onstart="serve")
    assert body_of(spec)["onstart"] == boot.script((), "serve")


def test_keys_are_left_out_before_the_lock_is() -> None:
    keys = tuple(f"ssh-rsa {noise(700, seed)}" for seed in range(8))
    spec = replace(LOCKED, ssh_public_keys=keys)
    assert body_of(spec)["onstart"] == boot.fitted(boot.script((), "serve", lock=spec.volume), 4_048)


def test_a_script_that_fits_only_without_the_lock_is_an_objection() -> None:
    spec = replace(LOCKED, onstart=f"echo {noise(4_043)}")
    [violation] = objections(spec)
    assert violation.field == "onstart"
    assert not objections(replace(spec, volume=MOUNT))
    with pytest.raises(InvalidRequest):
        body_of(spec)


def test_a_nonce_that_no_script_can_have_is_an_objection_to_the_volume() -> None:
    spec = replace(LOCKED, volume=replace(MOUNT, nonce="a'; rm -rf /"))
    [violation] = objections(spec)
    assert violation.field == "volume"
    with pytest.raises(InvalidRequest):
        body_of(spec)


def test_an_entry_point_has_the_volume_but_no_lock() -> None:
    body = body_of(replace(LOCKED, onstart="", run_mode="entrypoint", args=("serve",)))
    assert body["onstart"] is None
    assert body["volume_info"]["volume_id"] == 20118481


# -- refusals


def refusal(text: str, status: int = 400, error: str = "invalid_args") -> HttpResponse:
    return says({"success": False, "error": error, "msg": text}, status)


TAKEN = [
    said.volume_not_shared(),
    refusal("error 400/3467: volume V.5 is already attached"),
    refusal("Volume is in use"),
    refusal("volume 5: access denied", 403, "forbidden"),
    refusal("this volume is used by instance 7"),
    refusal("", 400, "volume_in_use"),
]
OTHERS: list[tuple[HttpResponse, type[ProviderError]]] = [
    (said.no_such_ask(5), OfferGone),
    (said.ask_unavailable(5), OfferGone),
    (said.no_such_volume(), InvalidRequest),
    (said.bad_args("the volume is not on the machine of this offer"), InvalidRequest),
    (said.bad_args("volumes can't be mounted on VMs"), InvalidRequest),
    (said.bad_args("port 8000 is in use"), InvalidRequest),
    (refusal("error 404/3603: no_such_ask the volume of this offer is in use"), OfferGone),
    (refusal("volume is in use", 500), OutcomeUnknown),
    (says("volume is in use", 502), OutcomeUnknown),
]


@pytest.mark.parametrize("answer", TAKEN)
def test_a_volume_that_another_machine_has_is_in_use(answer: HttpResponse) -> None:
    assert type(error_of(answer)) is VolumeInUse


@pytest.mark.parametrize("answer", TAKEN)
def test_a_create_without_a_volume_is_never_refused_for_one(answer: HttpResponse) -> None:
    assert type(error_of(answer, SPEC)) is InvalidRequest


@pytest.mark.parametrize(("answer", "kind"), OTHERS)
def test_any_other_refusal_is_as_without_a_volume(answer: HttpResponse, kind: type[ProviderError]) -> None:
    assert type(error_of(answer)) is kind


def test_an_error_about_the_volume_with_a_machine_is_a_machine() -> None:
    answer = says({"success": False, "error": "invalid_args", "msg": "volume is in use", "new_contract": 7}, 400)
    receipt, _ = on_script(lambda adapter: adapter.create(OFFER, MOUNTING, LABEL), answer)
    assert receipt.instance_id == "7"
