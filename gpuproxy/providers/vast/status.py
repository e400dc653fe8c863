"""The status of a machine, and the cause of a failure: its image or its host.

The rule: name a cause only if the message certainly does, in texts of the Docker daemon, the registry or the container
runtime. Otherwise the cause is None: slow or limited registries may work later.
"""

import re

from gpuproxy.ports import Blame, InstanceStatus

GPU_FAILURE = re.compile(r"\bgpu error\b", re.IGNORECASE)
"""vast.ai's own message about a failed GPU, on a machine with status running."""
_BOOTING = frozenset({None, "", "loading", "created", "rebooting", "recycling"})
_ENDED = frozenset({"stopped", "exited"})
_SILENT = frozenset({"offline", "unknown"})
_LONGEST = 2_000
"""Maximum characters of a message that are examined."""

_WAITS = re.compile(r"toomanyrequests|too many requests|rate limit|rate exceeded")
"""A registry's rate limit: the same pull works later."""
_HOST_PROGRAM = re.compile(
    r"\bexec:? \\*\"?(?:[^\s\"\\]{0,200}/)?"
    r"(?:nvidia-c(?:ontainer|tk)|docker-(?:init|proxy|credential)|dockerd\b|containerd|runc\b|crun\b)"
    r"[^\s\"\\]{0,200}\\*\"?: (?:executable file not found in \$path|no such file or directory|permission denied)"
)
"""A program of the host that can't be executed: the image is not at fault."""
_CANNOT = r"(?:no such file or directory|permission denied|is a directory)"
_DAEMON = r"error response from daemon|failed to register layer|/var/lib/docker|containerd"
_IMAGE_SAYS = (
    r"pull access denied",
    r"manifest unknown",
    r"manifest for .{1,300}? not found",
    r"no matching manifest",
    r"repository (?:\S{1,300} )?(?:not found: )?does not exist",
    r"failed to resolve reference .{1,300}?: \S{1,300}: not found",
    r"invalid reference format",
    # the registry's answer to a missing or a wrong login
    r"\bunauthorized: ",
    r"\b401 unauthorized",
    r"denied: requested access to the resource is denied",
    r"no basic auth credentials",
    # the entry point
    r"executable file not found in \$path",
    rf"\bexec: \\*\".{{0,300}}?\\*\": (?:stat \S{{1,300}}: )?{_CANNOT}",
    rf"(?<!fork/)\bexec \S{{1,300}}: {_CANNOT}",
    rf"exec user process caused:? \\*\"?{_CANNOT}",
    r"exec format error",
)
_HOST_SAYS = (
    r"no space left on device",
    r"oci runtime create failed",
    r"(?<![\w./-])nvidia-container-cli: ",
    r"driver/library version mismatch",
    r"could not select device driver",
    r"failed to initialize nvml",
    r"cannot connect to the docker daemon",
    rf"(?:{_DAEMON}).{{0,300}}?(?:input/output error|read-only file system)",
)
_IMAGE, _HOST = re.compile("|".join(_IMAGE_SAYS)), re.compile("|".join(_HOST_SAYS))


def status_of(
    actual: str | None, intended: str | None, current: str | None, message: str, *, known: bool = True
) -> InstanceStatus:
    """The status. `exited` is not always a failure, nor `created` a beginning: both depend on the intended status.

    `known`: False if the row has no readable actual status. A null status is readable and means "being created".
    """
    if actual == "running":
        return InstanceStatus.RUNNING
    if actual in _SILENT:
        return InstanceStatus.OFFLINE
    if "OCI runtime create failed" in message or (actual == "created" and intended == "stopped"):
        return InstanceStatus.BROKEN
    if not known:
        return InstanceStatus.UNSURE
    if actual in _BOOTING:
        return InstanceStatus.STOPPED if intended == "stopped" else InstanceStatus.PENDING
    if actual in _ENDED:
        # Intended status running, but contract stopped: a queued start, which has no GPU.
        holds_gpu = intended == "running" and current != "stopped"
        return InstanceStatus.BROKEN if holds_gpu else InstanceStatus.STOPPED
    return InstanceStatus.UNSURE


def blame_of(message: str, image: str) -> Blame | None:
    """The cause of failure in the message of an instance that does not run. `image`: its name, which is ignored."""
    text = " ".join(message[:_LONGEST].lower().split())
    if not text or text.startswith("success"):
        return None
    text = _without(text, image.strip().lower())
    if _WAITS.search(text):
        return None
    text, of_host = _HOST_PROGRAM.subn("", text)
    # The image first: an entry point that does not exist also reads "OCI runtime create failed".
    if _IMAGE.search(text):
        return Blame.IMAGE
    return Blame.HOST if of_host or _HOST.search(text) else None


def _without(text: str, image: str) -> str:
    """The message with the word "image" in place of the image's name, with or without its tag."""
    repository = re.sub(r"(?:@[^@]*|:[^:/]*)$", "", image)
    for name in (image, repository):
        if re.search(r"[^a-z0-9]", name):  # a name that is a plain word may be part of the sentence
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", "image", text)
    return text
