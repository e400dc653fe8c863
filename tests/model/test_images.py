"""What a machine must run is read from an image's name, and never from what only looks like a version of CUDA."""

import pytest

from gpuproxy.model.demands import DEFAULT_IMAGE
from gpuproxy.model.images import compute_cap_of, cuda_of


@pytest.mark.parametrize(
    ("image", "cuda"),
    [
        (DEFAULT_IMAGE, 12.1),
        ("nvidia/cuda:12.8.0-devel-ubuntu22.04", 12.8),
        ("nvidia/cuda:12.8.0-cudnn-runtime-ubuntu24.04", 12.8),
        ("nvidia/cuda:11.8.0-base", 11.8),
        ("nvidia/cuda:13.0.1-devel", 13.0),
        ("nvidia/cuda:12.4", 12.4),
        ("nvcr.io/nvidia/cuda:12.6.2-base", 12.6),
        ("host:5000/mirror/nvidia/cuda:12.8.0-runtime", 12.8),
        ("cuda:12.2.2-base", 12.2),
        ("nvidia/cuda:12.8.0@sha256:" + "a" * 64, 12.8),
        ("a/b:cuda12.8", 12.8),
        ("a/b:2.7.0-cuda12.8-cudnn9-devel", 12.8),
        ("a/b:cuda-12.8", 12.8),
        ("a/b:torch2.7-cuda-12.8-py3", 12.8),
        ("a/b:cuda_12.8", 12.8),
        ("a/b:CUDA12.8", 12.8),
        ("a/b:cuda12.8.1-runtime", 12.8),
        ("a/b:cu12.8", 12.8),
        ("a/b:cu-12.8-py3", 12.8),
        ("a/b:cu128", 12.8),
        ("a/b:2.7.0-cu128", 12.8),
        ("a/b:py311-cu118-torch2.1", 11.8),
        ("a/b:py311cu118", 11.8),
        ("a/b:v0.6.3.cu124.post1", 12.4),
        ("a/b:cu130", 13.0),
        ("a/b:cu102", 10.2),
        ("a/b:cuda121", 12.1),
        ("ghcr.io:443/a/b:cu126", 12.6),
        ("a/b:cu118-with-cuda12.1", 12.1),
        ("a/b:cuda9.2", 9.2),
        ("a/b:cu159", 15.9),
        ("a/b:cuda15.2", 15.2),
        ("nvidia/cuda:15.0.1-base", 15.0),
        ("a/b:cu201-cuda12.4", 12.4),
    ],
)
def test_the_cuda_version_is_in_the_tag(image: str, cuda: float) -> None:
    assert cuda_of(image) == cuda


@pytest.mark.parametrize(
    "image",
    [
        "",
        "ubuntu",
        "ubuntu:22.04",
        "pytorch/pytorch",
        "pytorch/pytorch:latest",
        "a/b@sha256:" + "c1" * 32,
        "nvidia/cuda@sha256:" + "12" * 32,
        "nvidia/cuda",
        "nvidia/cuda:latest",
        "host:5000/img",
        "host:5000/cuda12.8/img:latest",
        "localhost:5000/cuda11.8/img",
        "cu128.example.com:5000/img:1",
        "a/cuda-samples:12.8",
        "a/mycuda:12.8.0",
        "a/cudalike:12.8.0",
        "someone/cuda:2.0",
        "a/b:cu1",
        "a/b:cu12",
        "a/b:cu1280",
        "a/b:cu12800",
        "a/b:cu64",
        "a/b:cuda",
        "a/b:cuda12",
        "a/b:cuda1.0",
        "a/b:cuda12.85",
        "a/b:cuda-toolkit",
        "a/b:focus128",
        "a/b:focu128",
        "a/b:acu128",
        "a/b:vulcanocu12.8",
        "a/b:barracuda12.8",
        "a/b:accu-12.8",
        "a/b:cu-tip-128",
        "a/b:gpu128",
        "a/b:12.8",
        "a/b:cudnn8.9",
        "a/b:cudnn9",
        "a/b:cpu12.8",
        "a/b:cu2.5",
        "a/b:2024-cu201",
        "a/b:cu160",
        "a/b:cuda16.0",
        "a/b:cuda-20.1",
        "someone/cuda:16.1",
        "someone/cuda:22.0",
    ],
)
def test_nothing_else_is_taken_for_a_cuda_version(image: str) -> None:
    assert cuda_of(image) == 0.0


@pytest.mark.parametrize(
    ("image", "compute_cap"),
    [
        ("nvidia/cuda:13.0.0-base", 7.5),
        ("a/b:cu132", 7.5),
        ("a/b:cu128", 5.0),
        (DEFAULT_IMAGE, 5.0),
        ("nvidia/cuda:11.8.0-base", 3.5),
        ("a/b:cu102", 0.0),
        ("ubuntu:22.04", 0.0),
    ],
)
def test_a_newer_cuda_needs_a_newer_gpu(image: str, compute_cap: float) -> None:
    assert compute_cap_of(image) == compute_cap
