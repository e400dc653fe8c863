"""Reading the report from a log, in which everybody can print anything."""

import pytest

from gpuproxy import boot

BOTH = {"keys": "added", "onstart": "started"}
LINE = "gpuproxy-boot: version=1 keys=added onstart=started"


@pytest.mark.parametrize(
    "line",
    [
        LINE,
        f"2026-11-26T16:05:07.123Z {LINE}",
        f"{LINE}\r",
        f" 50%|#####     |\r{LINE}\r\n",
        f"\x1b[32m{LINE}\x1b[0m",
        f"\x1b[1m[container] \x1b[0m{LINE} took=3 keys=present",
        "gpuproxy-boot: version=2 keys=added door=held onstart=started watchdog=on",
        f"gpuproxy-boot: version=1 keys=failed{LINE}",
    ],
)
def test_a_report_is_found_whatever_stands_around_it(line: str) -> None:
    assert boot.reported(["sshd listens", line, "training starts"]) == BOTH


@pytest.mark.parametrize(
    "line",
    [
        "",
        "gpuproxy-boot:",
        "gpuproxy-boot: version=",
        "gpuproxy-boot: version=1",
        "gpuproxy-boot: version=1 keys=",
        "gpuproxy-boot: version=1 keys=ADDED onstart",
        "gpuproxy-boot: version=1 keys=stolen lock=started =added keys==added",
        "gpuproxy-boot: version=1 keys\x00=added",
        "gpuproxy-boot: version=1 " + "x" * 2_000 + " keys=added",
        "gpuproxy-boot: version=1 \ud800 \udcff=\ud800",
        "\x1b[" * 10_000 + "gpuproxy-boot: version=1 \x1b[" + "1;" * 10_000,
        "=" * 100_000,
    ],
)
def test_a_broken_line_is_no_report_and_hides_none(line: str) -> None:
    assert boot.reported([line]) is None
    assert boot.reported([LINE, line]) == BOTH


def test_only_known_parts_with_known_words_count() -> None:
    assert boot.reported([f"{LINE.replace('added', 'hacked')} admin=started"]) == {"onstart": "started"}


@pytest.mark.parametrize("word", ["waiting", "held", "lock_held", "wrong_volume", "unsupported"])
def test_the_word_of_the_lock_is_read(word: str) -> None:
    line = f"gpuproxy-boot: version=1 keys=added lock={word} onstart=not_run"
    assert boot.reported([line]) == {"keys": "added", "lock": word, "onstart": "not_run"}


def test_the_last_report_counts_because_each_start_reports() -> None:
    assert boot.reported([LINE, LINE.replace("added", "present")]) == {"keys": "present", "onstart": "started"}


def test_without_a_report_there_is_none() -> None:
    assert boot.reported([]) is None
    assert boot.reported(["container starts", "sshd listens"]) is None
