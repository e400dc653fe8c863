"""What the name of a Docker image says about the machine that it needs. Nothing is downloaded.

The spellings of contract 1.3: `nvidia/cuda:12.8.0-...`, and tags with `cuda12.8`, `cuda-12.8`, `cu12.8` or `cu128`. A
name that says nothing, such as a digest alone, needs nothing.
"""

import re

_DOTTED = re.compile(r"(?<![a-z])cu(?:da)?[-_]?([7-9]|1[0-5])\.([0-9])(?![0-9])", re.IGNORECASE)
"""`cuda12.8`. Numbers below 7 and above 15 are versions of other things: older CUDA runs on no machine of today."""
_GLUED = re.compile(r"(?<![a-z])cu(?:da)?[-_]?(1[0-5])([0-9])(?![0-9]|\.[0-9])", re.IGNORECASE)
"""`cu128`: always three digits, since `cu12` may be a major version or CUDA 1.2."""
_CUDA_REPOSITORY = "cuda"
_VERSION = re.compile(r"([7-9]|1[0-5])\.([0-9])(?![0-9])")
_COMPUTE_CAPS = ((13.0, 7.5), (12.0, 5.0), (11.0, 3.5))
"""By CUDA version: the lowest compute capability. 12.0 dropped Kepler, and 13.0 dropped Maxwell, Pascal and Volta."""


def cuda_of(image: str) -> float:
    """The CUDA version that an image is built with, by its tag; 0.0 if the tag names none. Of several, the highest."""
    repository, _, tag = image.partition("@")[0].rpartition("/")[2].partition(":")
    found = [*_DOTTED.findall(tag), *_GLUED.findall(tag)]
    if repository.casefold() == _CUDA_REPOSITORY and (version := _VERSION.match(tag)):
        found.append(version.groups())
    return max((float(f"{major}.{minor}") for major, minor in found), default=0.0)


def compute_cap_of(image: str) -> float:
    """The lowest compute capability on which the image's CUDA runs; 0.0 if the tag names no CUDA, or a very old one."""
    cuda = cuda_of(image)
    return next((least for version, least in _COMPUTE_CAPS if cuda >= version), 0.0)
