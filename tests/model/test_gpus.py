import pytest

from gpuproxy.model.gpus import gpu_key, gpu_matches, gpu_name, nominal_ram, nominal_vram


@pytest.mark.parametrize(
    ("megabytes", "gigabytes"),
    [
        (8192, 8),  # RTX 3060 Ti
        (10240, 10),
        (11264, 11),
        (12288, 12),  # RTX 3080 Ti
        (16376, 16),  # RTX 4080
        (24564, 24),  # RTX 4090
        (24576, 24),  # RTX 3090
        (23028, 24),
        (32510, 32),
        (39936, 40),
        (40960, 40),  # A100 40G
        (46068, 48),  # L40S
        (81559, 80),  # H100
        (81920, 80),  # A100 80G
        (95830, 94),
        (97871, 96),
        (143771, 141),  # H200
        (183359, 180),
        (196608, 192),
        (294912, 288),
    ],
)
def test_memory_is_the_nominal_size_of_a_model(megabytes: float, gigabytes: int) -> None:
    assert nominal_vram(megabytes) == gigabytes


def test_memory_of_an_unusual_size_is_rounded_to_the_nearest_gigabyte() -> None:
    assert nominal_vram(85651) == 84
    assert nominal_vram(73415) == 72
    assert nominal_vram(262128) == 256
    assert nominal_vram(2048) == 2
    assert nominal_vram(29 * 1024 - 1) == 29
    assert nominal_vram(28.4 * 1024) == 28
    assert nominal_vram(28.5 * 1024) == 29
    assert nominal_vram(300 * 1024 + 5) == 300
    assert nominal_vram(0) == 0


@pytest.mark.parametrize(
    ("megabytes", "gigabytes"),
    [
        *((64485, 64), (128803, 128), (60361, 60), (80581, 80), (1160771, 1152)),  # seen at vast.ai
        *((65536, 64), (32000, 32), (31900, 32), (0, 0), (500, 0), (1000, 1), (100_800, 100)),
        *((193_000, 192), (257_000, 256), (386_000, 384), (515_000, 512), (772_000, 768), (1_031_000, 1024)),
        *((1_547_000, 1536), (2_063_000, 2048), (262_144, 256), (245_760, 240), (2_097_152, 2048)),
    ],
)
def test_memory_of_a_machine_is_what_was_built_in(megabytes: float, gigabytes: float) -> None:
    assert nominal_ram(megabytes) == gigabytes


def test_memory_of_a_machine_is_at_most_three_percent_more_than_reported() -> None:
    assert nominal_ram(62 * 1024) == 62
    assert nominal_ram(62.2 * 1024) == 64
    for megabytes in range(1024, 2_000_000, 977):
        assert megabytes / 1024 - 0.5 <= nominal_ram(megabytes) <= max(1.03 * megabytes / 1024, megabytes / 1024 + 0.5)


def test_a_machine_that_reports_more_memory_never_has_less() -> None:
    sizes = [nominal_ram(megabytes) for megabytes in range(0, 2_200_000, 97)]
    assert sizes == sorted(sizes)


def test_a_size_that_is_sold_is_recognised_if_the_system_keeps_up_to_two_and_a_half_percent() -> None:
    large = (72, 80, 96, 112, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512, 640, 768, 896, 1024, 1152, 1536, 2048)
    for gigabytes in (*range(4, 65, 4), *large, 3072, 4096):
        for kept in range(26):
            assert nominal_ram(gigabytes * 1024 * (1 - kept / 1000)) == gigabytes


def test_the_limits_of_a_size_belong_to_it() -> None:
    assert nominal_vram(24 * 1024) == 24
    assert nominal_vram(24 * 1024 + 1) == 24
    assert nominal_vram(0.92 * 1024 * 24) == 24
    assert nominal_vram(0.92 * 1024 * 24 - 1) == 22


@pytest.mark.parametrize("raw", ["RTX_4090", "GeForce RTX 4090", "NVIDIA GeForce RTX 4090", "rtx4090", " Rtx-4090 "])
def test_all_spellings_of_a_model_are_equal(raw: str) -> None:
    assert gpu_name(raw) == "RTX 4090"
    assert gpu_key(raw) == gpu_key("RTX 4090")
    assert gpu_matches(raw, "RTX 4090")


@pytest.mark.parametrize(
    ("raw", "printed"),
    [
        ("rtx_3060_ti", "RTX 3060 Ti"),
        ("rtxa6000", "RTX A6000"),
        ("h100 sxm", "H100 SXM"),
        ("Titan RTX", "Titan RTX"),
        ("RTX 6000Ada", "RTX 6000Ada"),
        ("", ""),
    ],
)
def test_names_are_printed_as_clients_know_them(raw: str, printed: str) -> None:
    assert gpu_name(raw) == printed


@pytest.mark.parametrize(
    ("wanted", "model"),
    [("h100", "H100 SXM"), ("V100", "Tesla V100"), ("A100 SXM4", "NVIDIA A100-SXM4-40GB"), ("A100", "A100 PCIE 80GB")],
)
def test_a_name_without_a_variant_matches_all_variants(wanted: str, model: str) -> None:
    assert gpu_matches(wanted, model)


@pytest.mark.parametrize(
    ("wanted", "model"),
    [
        ("RTX 4090", "RTX 4090D"),
        ("RTX 3060", "RTX 3060 Ti"),
        ("H100 SXM", "H100 PCIE"),
        ("H100 SXM", "H100"),
        ("A100", "H100"),
        ("RTX", "RTX 4090"),
        ("H100", "GH100"),
    ],
)
def test_a_name_does_not_match_another_model(wanted: str, model: str) -> None:
    assert not gpu_matches(wanted, model)
