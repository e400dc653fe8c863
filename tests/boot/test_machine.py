"""The boot script runs for real, in every shell that images have: what it installs, runs, reports and leaves alone."""

import json
import os
import select
import stat
import subprocess
from pathlib import Path

import pytest

from gpuproxy import boot
from gpuproxy.boot import Part
from gpuproxy.boot.packing import packed
from gpuproxy.model.demands import VolumeMount
from tests.boot.machine import SHELLS, Machine, machine, moved, needed
from tests.boot.scripts import KEY_SETS, SCRIPTS, keys

pytestmark = pytest.mark.long
KEY = "ssh-ed25519 AAAA me@host"
FORMS = {"plain": lambda text: text, "packed": packed}
SAYS_ITS_SURROUNDINGS = """#!/usr/bin/env python3
import json, os, sys
os.umask(mask := os.umask(0))
files = [*sorted(os.listdir("/proc/self/fd")), os.getpid() == os.getsid(0)]
print(json.dumps([sys.stdin.read(), os.getcwd(), sys.argv[1:], mask, dict(os.environ), files]))
"""
_SECONDS = 1200


@pytest.fixture(params=SHELLS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    return machine(tmp_path, request.param)


@pytest.mark.sampled(5)  # all shells, forms and sets of keys, but not all together
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("which", KEY_SETS)
@pytest.mark.parametrize("shell", SHELLS)
def test_every_combination_of_keys_and_scripts_runs(tmp_path: Path, shell: str, which: str, form: str) -> None:
    for name, mine in SCRIPTS.items():
        folder = tmp_path / name
        folder.mkdir()
        place = machine(folder, shell)
        text = boot.script(keys(which), mine.text)
        assert bool(text) == bool(keys(which) or mine.text.strip()), name
        if not text:
            continue
        ran = place.start(FORMS[form](text))
        report, _, printed = ran.stdout.partition("\n")
        assert (printed, ran.returncode) == (mine.prints, mine.status), (name, ran.stderr)
        expected = {"onstart": "started" if mine.text.strip() else "none"}
        if keys(which):
            expected["keys"] = "added"
            assert place.keys.read_text(encoding="utf-8").splitlines() == list(dict.fromkeys(keys(which))), name
            assert _mode(place.keys) == 0o600
            assert _mode(place.keys.parent) == 0o700
        assert boot.reported(ran.stdout.splitlines()) == expected, name
        assert report.startswith("gpuproxy-boot: version=1 ")
        assert place.keys.exists() == bool(keys(which))
        if mine.text.strip():
            _is_written(place, mine.text)


def test_the_users_script_finds_what_it_would_find_without_us(place: Machine) -> None:
    env = {"n": "1", "word": "2", "failed": "3", "ODD": 'it\'s "x"\n$y'}
    direct = place.folder / "direct"
    direct.write_text(SAYS_ITS_SURROUNDINGS, encoding="utf-8")
    plain = place.start(f'exec python3 {direct} "$@"\n', stdin="typed\n", env=env, arguments=("a b", "c"))
    for form in FORMS.values():
        ran = place.start(
            form(boot.script([KEY], SAYS_ITS_SURROUNDINGS)), stdin="typed\n", env=env, arguments=("a b", "c")
        )
        said, unaided = json.loads(ran.stdout.splitlines()[-1]), json.loads(plain.stdout)
        for environ in (said[4], unaided[4]):
            environ.pop("_", None)  # a shell sets it to the last command
        assert said == unaided
        assert said[-1][-1] is True  # it is the process that the container started, so it gets its signals


@pytest.mark.parametrize("form", FORMS)
def test_a_second_start_adds_no_key_twice_and_runs_the_script_again(place: Machine, form: str) -> None:
    text = FORMS[form](boot.script([KEY], "echo ran >>ran"))
    first, second = place.start(text), place.start(text)
    assert boot.reported(first.stdout.splitlines()) == {"keys": "added", "onstart": "started"}
    assert boot.reported(second.stdout.splitlines()) == {"keys": "present", "onstart": "started"}
    assert place.keys.read_text() == f"{KEY}\n"
    assert (place.folder / "ran").read_text() == "ran\nran\n"


def test_an_authorized_keys_without_a_final_newline_is_not_damaged(place: Machine) -> None:
    place.keys.parent.mkdir(mode=0o755)
    place.keys.write_text("ssh-rsa THEIRS")
    place.keys.chmod(0o644)
    place.start(boot.script([KEY, "ssh-rsa THEIR"], ""))
    assert place.keys.read_text() == f"ssh-rsa THEIRS\n{KEY}\nssh-rsa THEIR\n"
    assert (_mode(place.keys.parent), _mode(place.keys)) == (0o700, 0o600)


def test_keys_that_cannot_be_written_are_reported_and_the_script_still_runs(place: Machine) -> None:
    place.keys.parent.write_text("a file where the directory should be")
    ran = place.start(boot.script([KEY], "echo mine"))
    assert boot.reported(ran.stdout.splitlines()) == {"keys": "failed", "onstart": "started"}
    assert ran.stdout.endswith("mine\n")


def test_a_part_that_never_ends_delays_the_script_for_a_bounded_time(place: Machine) -> None:
    hangs = Part(name="keys", source='part_keys() {\nread -r never <"$HOME/fifo"\n}\n')
    os.mkfifo(place.home / "fifo")
    quick = boot.script([], "echo mine", more=[hangs]).replace("-ge 200", "-ge 2")
    ran = place.start(quick)
    (place.home / "fifo").open("w").close()  # lets it end
    assert boot.reported(ran.stdout.splitlines()) == {"keys": "failed", "onstart": "started"}
    assert ran.stdout.endswith("mine\n")


@pytest.mark.parametrize("ending", ["exit 1", "exec true", "kill 0", "kill -KILL 0", "kill -HUP 0"])
def test_our_program_outlives_the_users_script(place: Machine, ending: str) -> None:
    stays = Part(name="after", stays=True, source='part_after() {\necho alive >"$HOME/fifo"\n}\n')
    os.mkfifo(place.home / "fifo")
    place.start(boot.script([KEY], f"#!/bin/sh\n{ending}\n", more=[stays]))
    assert _heard(place.home / "fifo") == "alive\n"  # it can only write once somebody reads, which is now


def test_without_setsid_our_program_ignores_a_hangup(place: Machine) -> None:
    stays = Part(name="after", stays=True, source='part_after() {\necho alive >"$HOME/fifo"\n}\n')
    os.mkfifo(place.home / "fifo")
    place.without("setsid").start(moved(boot.script([KEY], "#!/bin/sh\nkill -HUP 0\n", more=[stays])))
    assert _heard(place.home / "fifo") == "alive\n"


def test_the_user_has_no_child_of_ours(place: Machine) -> None:
    stays = Part(name="after", stays=True, source='part_after() {\necho alive >"$HOME/fifo"\n}\n')
    os.mkfifo(place.home / "fifo")
    waits = "#!/usr/bin/env python3\nimport os\ntry:\n    os.wait()\nexcept ChildProcessError:\n    print('none')\n"
    ran = place.start(boot.script([KEY], waits, more=[stays]))
    assert ran.stdout.endswith("none\n")
    assert _heard(place.home / "fifo") == "alive\n"


def test_the_report_is_in_the_log_of_the_container_too(place: Machine) -> None:
    place.console.unlink()
    os.mkfifo(place.console)
    ran = place.start(boot.script([KEY], "echo mine"))  # nobody reads the log, and nothing waits for that
    assert _heard(place.console) == ran.stdout.splitlines()[0] + "\n"


def test_a_script_is_skipped_where_the_environment_says_so(place: Machine) -> None:
    ran = place.start(boot.script([KEY], "echo mine"), env={"GPUPROXY_BOOT_ONSTART": "skip"})
    assert boot.reported(ran.stdout.splitlines()) == {"keys": "added", "onstart": "skipped"}
    assert (ran.stdout.count("\n"), ran.returncode) == (1, 0)


@pytest.mark.parametrize(
    "shebang", ["#!/no/such/shell", "#! /no/env python3", "#!/usr/bin/env no-such", "#!/usr/bin/env -S -u A no-such -u"]
)
def test_a_script_whose_interpreter_is_missing_runs_in_bash_and_our_log_says_so(place: Machine, shebang: str) -> None:
    ran = place.start(boot.script([KEY], f"{shebang}\na=(1 2)\necho ${{#a[@]}}\n"))
    assert boot.reported(ran.stdout.splitlines()) == {"keys": "added", "onstart": "started"}
    assert (ran.stdout.splitlines()[1:], ran.returncode) == (["2"], 0), ran.stderr
    [line] = [line for line in (place.ours / "log").read_text().splitlines() if "not found" in line]
    assert line.startswith(f"onstart: {shebang.removeprefix('#!').split()[0]} ")
    assert ("no-such" in line, line.endswith("bash runs it")) == ("no-such" in shebang, True)


def test_without_bash_a_script_whose_interpreter_is_missing_runs_in_sh(place: Machine) -> None:
    text = boot.script([], "#!/usr/bin/env python3\necho mine\n")
    ran = place.without("bash", "python3").start(moved(text))
    assert ran.stdout.endswith("onstart=started\nmine\n")


@pytest.mark.parametrize(
    "shebang", ["#!/usr/bin/env -S A=1 bash -u", "#!/usr/bin/env bash", "#!/usr/bin/env -Sbash", "#!/bin/bash\t-u"]
)
def test_a_script_whose_interpreter_is_there_runs_in_it(place: Machine, shebang: str) -> None:
    ran = place.start(boot.script([], f"{shebang}\necho $A$-\n"), env={"A": ""})
    assert "started\n" in ran.stdout, ran.stderr
    assert (("1" in ran.stdout.splitlines()[-1]), ran.returncode) == ("A=1" in shebang, 0)
    assert (place.ours / "log").read_text() == ""


def test_a_script_for_sh_does_not_run_in_bash(place: Machine) -> None:
    ran = place.start(boot.script([], f"#!{place.bin}/sh\nread -r name </proc/$$/comm\necho $name\n"))
    assert ran.stdout.splitlines()[-1] == "sh"


def test_a_script_that_cannot_be_written_is_reported_as_failed(place: Machine) -> None:
    text = boot.script([KEY], "echo mine\n")
    (place.ours / "onstart").mkdir(parents=True)
    (place.ours / "onstart" / "new").mkdir()
    ran = place.start(text)
    assert boot.reported(ran.stdout.splitlines()) == {"keys": "added", "onstart": "failed"}
    assert (ran.stdout.count("\n"), ran.returncode) == (1, 127)


@pytest.mark.parametrize("options", ["allexport", "errexit:nounset", "allexport:errexit:nounset", "posix"])
@pytest.mark.parametrize("form", FORMS)
def test_options_of_the_shell_change_nothing(tmp_path: Path, form: str, options: str) -> None:
    place = machine(tmp_path, "bash")
    text = "#!/usr/bin/env python3\nimport json, os\nprint(json.dumps(dict(os.environ)))\n"
    (place.folder / "direct").write_text(text)
    unaided = place.start("exec python3 direct", env={"SHELLOPTS": options})
    ran = place.start(FORMS[form](boot.script([KEY], text)), env={"SHELLOPTS": options})
    assert boot.reported(ran.stdout.splitlines()) == {"keys": "added", "onstart": "started"}
    theirs, found = json.loads(unaided.stdout), json.loads(ran.stdout.splitlines()[-1])
    for environ in (theirs, found):
        environ.pop("_", None)
    assert found == theirs


def test_without_bash_a_script_without_a_shebang_runs_in_sh(place: Machine) -> None:
    ran = place.without("bash").start(moved(boot.script([], "echo mine")))
    assert ran.stdout.endswith("onstart=started\nmine\n")


def test_where_the_home_cannot_be_written_our_files_are_under_tmp(place: Machine) -> None:
    place.ours.write_text("a file where the directory should be")
    ran = place.start(boot.script([KEY], 'echo "$0"; rm -r "${0%/*}"'))
    assert boot.reported(ran.stdout.splitlines()) == {"keys": "added", "onstart": "started"}
    assert ran.stdout.splitlines()[-1].startswith("/tmp/gpuproxy.")  # noqa: S108


def test_our_directory_can_be_chosen(place: Machine) -> None:
    place.start(boot.script([KEY], "echo mine"), env={"GPUPROXY_BOOT_DIR": str(place.folder / "other place")})
    assert (place.folder / "other place" / "onstart").read_text() == "echo mine\n"
    assert not place.ours.exists()
    assert "keys: added" in (place.folder / "other place" / "log").read_text()


@pytest.mark.parametrize("missing", [("base64",), ("base64", "openssl"), ("gzip",)])
def test_a_packed_script_unpacks_with_what_there_is(place: Machine, missing: tuple[str, ...]) -> None:
    ran = place.without(*missing).start(moved(packed(boot.script([KEY], SCRIPTS["odd characters"].text))))
    assert ran.stdout.endswith(SCRIPTS["odd characters"].prints)


@pytest.mark.parametrize("missing", [("base64", "openssl", "python3"), ("gzip", "python3")])
def test_where_nothing_can_unpack_one_line_says_so(place: Machine, missing: tuple[str, ...]) -> None:
    ran = place.without(*missing).start(moved(packed(boot.script([KEY], "echo mine"))))
    assert boot.reported(ran.stdout.splitlines()) == {"keys": "failed", "onstart": "failed"}
    assert (ran.stdout.count("\n"), ran.stderr, ran.returncode) == (1, "", 127)
    assert "python3" in ran.stdout


def test_nothing_of_the_script_or_the_environment_is_in_an_argument_or_an_output(place: Machine) -> None:
    tells = '#!/bin/sh\n# s3cret-1\ntr "\\0" " " <"/proc/$$/cmdline"\n'
    arguments = Part(name="watch", source='part_watch() {\ncat /proc/[0-9]*/cmdline >"$HOME/all"\n}\n')
    for form in FORMS.values():
        ran = place.start(form(boot.script([KEY], tells, more=[arguments])), env={"TOKEN": "s3cret-2"})
        seen = (place.home / "all").read_text(errors="replace") + ran.stdout + ran.stderr
        seen += (place.ours / "log").read_text() + place.console.read_text()
        assert "s3cret" not in seen
        assert KEY not in seen


@pytest.mark.sampled(3)
@pytest.mark.parametrize("lock", [None, VolumeMount(volume_id="7", path="/it's data", nonce="n0nce", founds=True)])
@pytest.mark.parametrize("which", KEY_SETS)
def test_generated_scripts_are_clean_shell(tmp_path: Path, which: str, lock: VolumeMount | None) -> None:
    for number, mine in enumerate(SCRIPTS.values()):
        text = boot.script(keys(which), mine.text, lock=lock)
        for form, put in FORMS.items() if text else ():
            (tmp_path / f"{number}-{form}.sh").write_text(put(text), encoding="utf-8", newline="")
    _is_clean(tmp_path)


def test_the_shipped_files_are_clean_shell() -> None:
    _is_clean(Path(boot.__file__).parent / "sh")


def _is_clean(folder: Path) -> None:
    files = sorted(map(str, folder.glob("*.sh")))
    assert len(files) > 5
    found = subprocess.run([needed("shellcheck"), "-s", "sh", *files], capture_output=True, text=True, check=False)
    assert (found.stdout, found.stderr, found.returncode) == ("", "", 0)


def _is_written(place: Machine, text: str) -> None:
    path = place.ours / "onstart"
    assert path.read_bytes() == (text if text.endswith("\n") else f"{text}\n").encode()
    assert (_mode(path), _mode(place.ours)) == (0o700, 0o700)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _heard(fifo: Path) -> str:
    """What is written to the fifo; "" if nothing is written for a long time."""
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        ready, _, _ = select.select([reading], [], [], _SECONDS)
        return os.read(reading, 4096).decode() if ready else ""
    finally:
        os.close(reading)
