"""The cause in a status message: the image, the host, or none if the failure may be temporary."""

import pytest

from gpuproxy.ports import Blame, InstanceStatus, ListedInstance
from tests.providers.wires import on_script, page, wire

DAEMON = "Error response from daemon: "
OCI = DAEMON + "OCI runtime create failed: runc create failed: unable to start container process: "
OLD_OCI = DAEMON + "OCI runtime create failed: container_linux.go:380: starting container process caused: "

IMAGE = [
    DAEMON + "pull access denied for foo/bar, repository does not exist or may require 'docker login': denied",
    DAEMON + "manifest unknown",
    DAEMON + "manifest for foo/bar:nope not found: manifest unknown: manifest unknown",
    DAEMON + "no matching manifest for linux/amd64 in the manifest list entries",
    DAEMON + "repository foo/bar not found: does not exist or no pull access",
    "docker: invalid reference format.",
    "docker: invalid reference format: repository name must be lowercase.",
    'failed to resolve reference "docker.io/foo/bar:1": docker.io/foo/bar:1: not found',
    DAEMON + "Head https://ghcr.io/v2/foo/bar/manifests/1: unauthorized: authentication required",
    DAEMON + "denied: requested access to the resource is denied",
    DAEMON + "Get https://registry.example/v2/: no basic auth credentials",
    OCI + 'exec: "python3.12": executable file not found in $PATH: unknown',
    OLD_OCI + 'exec: \\"python3.12\\": executable file not found in $PATH: unknown',
    OCI + 'exec: "docker-entrypoint.sh": executable file not found in $PATH: unknown',
    OCI + 'exec: "/start.sh": stat /start.sh: no such file or directory: unknown',
    OCI + 'exec: "/start.sh": no such file or directory',
    OCI + 'exec: "/start.sh": permission denied: unknown',
    OCI + "exec /start.sh: no such file or directory",
    "standard_init_linux.go:228: exec user process caused: no such file or directory",
    "exec /bin/sh: exec format error",
    "standard_init_linux.go:228: exec user process caused: exec format error",
]
HOST = [
    DAEMON + "failed to register layer: write /usr/lib/libcudnn.so: no space left on device",
    "Error: NO SPACE LEFT ON DEVICE",
    DAEMON + "OCI runtime create failed: no such device",
    OCI + 'error mounting "/var/lib/vast" to rootfs at "/x": no such file or directory: unknown',
    OCI + "error during container init: error running hook #0: nvidia-container-cli: initialization error: driver rpc",
    "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.8",
    OCI + 'error running hook: exec: "nvidia-container-runtime-hook": executable file not found in $PATH',
    DAEMON + "fork/exec /usr/bin/nvidia-container-runtime: no such file or directory: OCI runtime create failed",
    "Failed to initialize NVML: Driver/library version mismatch",
    DAEMON + 'could not select device driver "" with capabilities: [[gpu]]',
    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
    DAEMON + "failed to create /var/lib/docker/overlay2/x: input/output error",
    DAEMON + "mkdir /var/lib/docker/overlay2/x: read-only file system",
]
NOBODY = [
    "",
    "loading 45%",
    "a1b2c3: Pulling fs layer 12MB/3GB",
    "success, running foo/bar/ssh",
    "success, unauthorized: no space left on device",
    DAEMON + "toomanyrequests: You have reached your pull rate limit. unauthorized: authentication required",
    DAEMON + "Get https://registry-1.docker.io/v2/: net/http: request canceled (Client.Timeout exceeded)",
    DAEMON + "Get https://registry-1.docker.io/v2/: dial tcp: lookup registry-1.docker.io: i/o timeout",
    DAEMON + "Get https://registry-1.docker.io/v2/: EOF",
    "received unexpected HTTP status: 503 Service Unavailable",
    "exit code 137",
    "GPU error: NVRM: Xid 79, GPU has fallen off the bus.",
    "my program: input/output error",
    "cat: /data/x: no such file or directory",
    "permission denied",
    "404 not found",
]


def seen(message: str, *, image: object = "foo/bar:1", actual: object = "loading") -> ListedInstance:
    row = wire(1, status_msg=message, image_uuid=image, actual_status=actual)
    listing, _ = on_script(lambda adapter: adapter.list(), page(row))
    return listing.instances[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("message", IMAGE)
def test_the_image_is_blamed_for_what_fails_on_every_host(message: str) -> None:
    assert seen(message).blame is Blame.IMAGE


@pytest.mark.parametrize("message", HOST)
def test_the_host_is_blamed_for_its_disk_its_driver_and_its_docker(message: str) -> None:
    assert seen(message).blame is Blame.HOST


@pytest.mark.parametrize("message", NOBODY)
def test_a_temporary_failure_has_no_blame(message: str) -> None:
    assert seen(message).blame is None


@pytest.mark.parametrize("message", [*IMAGE, *HOST])
def test_a_running_instance_has_no_blame(message: str) -> None:
    assert seen(message, actual="running").blame is None


@pytest.mark.parametrize(
    "image",
    [
        "foo/no-space-left-on-device",
        "foo/no space left on device",
        "foo/nvidia-container-cli: x",
        "registry.example:5000/foo/manifest-unknown:pull-access-denied",
        "foo/exec-format-error@sha256:00",
    ],
)
def test_the_name_of_an_image_in_a_message_does_not_blame_the_image(image: str) -> None:
    assert seen(f"pulling {image}", image=image).blame is None
    assert seen(f"pulling from {image.split('@', maxsplit=1)[0]}: 5%", image=image).blame is None


def test_a_failure_of_an_image_with_such_a_name_is_still_blamed() -> None:
    image = "foo/toomanyrequests:1"
    assert seen(f"{DAEMON}manifest for {image} not found", image=image).blame is Blame.IMAGE
    assert (
        seen(f"{DAEMON}failed to register layer of {image}: no space left on device", image=image).blame is Blame.HOST
    )


@pytest.mark.parametrize("image", [None, "", "ubuntu", "device", 5, {}])
def test_blame_is_found_without_the_name_of_the_image(image: object) -> None:
    assert seen(HOST[0], image=image).blame is Blame.HOST


def test_a_failed_start_is_broken_and_a_failed_pull_is_not() -> None:
    assert seen(HOST[2]).status is InstanceStatus.BROKEN
    assert seen(IMAGE[11]).status is InstanceStatus.BROKEN
    assert seen(IMAGE[0]).status is InstanceStatus.PENDING


def test_a_message_of_several_lines_is_read_as_one() -> None:
    assert seen("Error response from daemon:\n  no space\n  left on device\n").blame is Blame.HOST


def test_the_blame_is_determined_before_secrets_are_removed() -> None:
    assert seen(f"{DAEMON}no space left on device k3y-that-must-not-show").blame is Blame.HOST
