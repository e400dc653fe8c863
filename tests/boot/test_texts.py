"""The text of the boot script: what is in it, how long it is, and which parts a launch has."""

import random

import pytest

from gpuproxy import boot
from gpuproxy.boot.packing import packed
from gpuproxy.boot.writing import shebang
from gpuproxy.model.demands import LaunchSpec, VolumeMount

KEY = "ssh-ed25519 AAAA me@host"
LOCKED = VolumeMount(volume_id="7", path="/data", nonce="k3J9x0Zq8LmN2pRs5tUv", founds=True)
RANDOM = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=5_000))


def test_there_is_no_script_where_there_is_nothing_to_do() -> None:
    assert (boot.script((), ""), boot.script((), " \n"), boot.script(("", " "), "")) == ("", "", "")


def test_only_the_parts_that_are_needed_are_in_it() -> None:
    assert "part_keys" not in boot.script((), "echo hi")
    assert "exec" not in boot.script((), "echo hi").partition("gp_put onstart")[0]
    assert "gp_put onstart" not in boot.script((KEY,), "")


def test_a_key_is_in_it_once_and_as_data() -> None:
    text = boot.script((KEY, f" {KEY}\n"), "echo hi")
    assert text.count(KEY) == 1
    assert text.splitlines()[text.splitlines().index(KEY) - 1] == "gp_do gp_put keys <<'gp-end'"


def test_a_script_that_fits_is_plain_text_and_a_longer_one_is_packed() -> None:
    text = boot.script((KEY,), "echo hi\n" * 5_000)
    assert boot.fitted(text, len(text)) == text
    small = boot.fitted(text, len(text) - 1)
    assert small != text
    assert (small, small.isascii(), len(small) < 4_048) == (boot.fitted(text, 4_048), True, True)


def test_the_limit_counts_bytes_where_they_are_more_than_characters() -> None:
    text = boot.script((), "echo " + "ü" * 400)
    assert boot.fitted(text, len(text)) != text
    assert boot.fitted(text, len(text) + 400) == text


def test_what_does_not_fit_even_when_packed_is_too_long_by_its_packed_size() -> None:
    text = boot.script((), RANDOM)
    with pytest.raises(boot.TooLong) as raised:
        boot.fitted(text, 4_048)
    size = raised.value.size
    assert (raised.value.limit, 4_048 < size < 8_000) == (4_048, True)
    assert len(boot.fitted(text, size)) == size
    assert str(raised.value) == f"is {size:,} characters after compression, and the limit is 4,048"


@pytest.mark.parametrize(
    ("keys", "plain", "compressed"), [((), 1_250, 1_400), ((f"ssh-ed25519 {RANDOM[:68]} me@host",), 2_350, 2_070)]
)
def test_ours_leaves_most_of_the_marketplaces_limit_to_the_user(
    keys: tuple[str, ...], plain: int, compressed: int
) -> None:
    text = boot.script(keys, "x")
    assert (len(text) <= plain, len(packed(text)) <= compressed) == (True, True)


def test_with_a_lock_there_is_still_room_for_a_usual_script() -> None:
    text = boot.script((f"ssh-ed25519 {RANDOM[:68]} me@host",), "x", lock=LOCKED)
    assert (len(text) <= 4_000, len(packed(text)) <= 2_800) == (True, True)


@pytest.mark.parametrize(
    ("onstart", "words"),
    [
        ("echo hi", ("",)),
        ("#!/bin/sh", ("/bin/sh",)),
        ("#!", ("",)),
        ("#! \t/bin/bash\t-e -u \r\necho", ("/bin/bash", "-e -u")),
        ("#!/usr/bin/env python3\n", ("/usr/bin/env", "python3", "python3")),
        ("#!/usr/bin/env python3 -u\n", ("/usr/bin/env", "python3 -u", "python3 -u")),
        ("#!/usr/bin/env -S python3 -u\n", ("/usr/bin/env", "-S python3 -u", "python3")),
        ("#!/usr/bin/env -S -u A -i B=1 sh\n", ("/usr/bin/env", "-S -u A -i B=1 sh", "sh")),
        ("#!/usr/bin/env -Sbash -e\n", ("/usr/bin/env", "-Sbash -e", "bash")),
        ("#!/usr/bin/env -S 'a b'\n", ("/usr/bin/env", "-S 'a b'")),
        ("#!/usr/bin/env A=1\n", ("/usr/bin/env", "A=1")),
        ("#!/usr/bin/env\n", ("/usr/bin/env",)),
        (" #!/bin/sh", ("",)),
        ("\ufeff#!/bin/sh", ("",)),
    ],
)
def test_a_shebang_is_read_as_the_kernel_and_env_read_it(onstart: str, words: tuple[str, ...]) -> None:
    assert shebang(onstart) == words


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        (LaunchSpec(), ()),
        (LaunchSpec(onstart=" \n"), ()),
        (LaunchSpec(ssh_public_keys=(KEY,)), (("keys", "requested"),)),
        (LaunchSpec(onstart="x", ssh_public_keys=(KEY,)), (("keys", "requested"), ("onstart", "requested"))),
        (LaunchSpec(run_mode="jupyter", onstart="x"), (("onstart", "requested"),)),
        (LaunchSpec(run_mode="entrypoint"), ()),
        (LaunchSpec(volume=LOCKED, onstart="x"), (("lock", "requested"), ("onstart", "requested"))),
        (LaunchSpec(volume=VolumeMount(volume_id="7", path="/data")), ()),
        (LaunchSpec(run_mode="entrypoint", volume=LOCKED), (("lock", "unsupported in entrypoint mode"),)),
        (LaunchSpec(run_mode="entrypoint", ssh_public_keys=(KEY,)), (("keys", "unsupported in entrypoint mode"),)),
    ],
)
def test_a_launch_has_the_parts_that_its_run_mode_allows(spec: LaunchSpec, parts: tuple[tuple[str, str], ...]) -> None:
    assert boot.parts_of(spec) == parts


def test_every_part_has_a_shell_file_that_defines_it() -> None:
    for part in boot.PARTS:
        assert f"part_{part.name}() {{" in part.text()
