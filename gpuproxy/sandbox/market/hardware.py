"""The data of the built-in market: GPU models, chunk shapes, locations, processors.

Memory sizes and price ranges were recorded on vast.ai between 2025-12 and 2026-06. Prices are in USD per GPU-hour: the
10th percentile, median and 90th percentile of the offers. Weights follow the number of recorded offers.
"""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Model:
    """One GPU model as drivers and vast.ai report it."""

    name: str
    memory_mb: int
    low: float
    median: float
    high: float
    weight: int
    compute_cap: int
    tflops: float
    dlperf: float
    bandwidth: float
    """Memory bandwidth in GB/s."""
    watts: int
    datacenter: bool = False


MODELS = (
    Model("RTX 4090", 24564, 0.26, 0.35, 0.44, 150, 890, 82.6, 98.6, 1008.0, 450),
    Model("RTX 4090", 49140, 0.40, 0.62, 0.80, 12, 890, 82.6, 98.6, 1008.0, 450),
    Model("RTX 5090", 32607, 0.28, 0.40, 0.58, 110, 1200, 109.4, 203.2, 1792.0, 575),
    Model("RTX 3090", 24576, 0.10, 0.15, 0.22, 80, 860, 35.8, 45.2, 936.0, 350),
    Model("RTX 3060", 12288, 0.04, 0.05, 0.09, 40, 860, 12.4, 12.5, 360.0, 170),
    Model("RTX 3060 Ti", 8192, 0.03, 0.06, 0.18, 8, 860, 16.1, 14.0, 448.0, 200),
    Model("RTX 3070", 8192, 0.04, 0.05, 0.20, 14, 860, 20.3, 16.7, 448.0, 220),
    Model("RTX 3080", 10240, 0.05, 0.08, 0.12, 14, 860, 29.7, 27.4, 760.0, 320),
    Model("RTX 3080 Ti", 12288, 0.06, 0.12, 0.15, 10, 860, 35.4, 34.7, 912.0, 350),
    Model("RTX 4060 Ti", 16380, 0.05, 0.09, 0.16, 18, 890, 21.7, 22.9, 288.0, 165),
    Model("RTX 4070", 12282, 0.06, 0.08, 0.14, 12, 890, 29.5, 34.0, 504.0, 200),
    Model("RTX 4070S Ti", 16376, 0.13, 0.18, 0.19, 10, 890, 42.8, 51.8, 672.0, 285),
    Model("RTX 4080", 16376, 0.11, 0.17, 0.26, 10, 890, 48.7, 54.4, 717.0, 320),
    Model("RTX 4080S", 16376, 0.08, 0.15, 0.18, 12, 890, 51.0, 56.1, 736.0, 320),
    Model("RTX 5060 Ti", 16311, 0.06, 0.09, 0.13, 30, 1200, 23.7, 38.7, 448.0, 180),
    Model("RTX 5070 Ti", 16303, 0.10, 0.11, 0.16, 14, 1200, 44.7, 76.1, 896.0, 300),
    Model("RTX 5080", 16303, 0.12, 0.15, 0.21, 18, 1200, 54.2, 84.1, 960.0, 360),
    Model("RTX A4000", 16376, 0.05, 0.08, 0.15, 16, 860, 20.6, 21.6, 448.0, 140),
    Model("RTX A5000", 24564, 0.18, 0.23, 0.26, 14, 860, 27.5, 35.3, 768.0, 230),
    Model("RTX A6000", 49140, 0.36, 0.38, 0.49, 14, 860, 36.1, 55.2, 768.0, 300),
    Model("RTX 6000Ada", 49140, 0.40, 0.53, 0.66, 12, 890, 81.4, 117.0, 960.0, 300),
    Model("RTX PRO 6000 WS", 97887, 0.66, 0.88, 1.08, 26, 1200, 119.0, 283.6, 1792.0, 600),
    Model("RTX PRO 6000 S", 97887, 1.33, 1.60, 2.00, 10, 1200, 93.6, 279.4, 1597.0, 600, datacenter=True),
    Model("Q RTX 8000", 46080, 0.24, 0.25, 0.58, 5, 750, 16.3, 20.1, 672.0, 260),
    Model("A40", 46068, 0.29, 0.30, 0.60, 8, 860, 29.9, 44.2, 696.0, 300, datacenter=True),
    Model("L40S", 46068, 0.44, 0.60, 0.66, 18, 890, 73.3, 95.2, 864.0, 350, datacenter=True),
    Model("Tesla V100", 32768, 0.11, 0.21, 0.24, 12, 700, 12.5, 25.7, 897.0, 300, datacenter=True),
    Model("A100 PCIE", 40960, 0.52, 0.60, 0.73, 6, 800, 15.6, 95.5, 1555.0, 250, datacenter=True),
    Model("A100 PCIE", 81920, 0.65, 0.73, 0.98, 10, 800, 15.6, 127.4, 1935.0, 300, datacenter=True),
    Model("A100 SXM4", 40960, 0.61, 0.70, 0.90, 10, 800, 15.6, 95.5, 1555.0, 400, datacenter=True),
    Model("A100 SXM4", 81920, 0.77, 0.95, 1.14, 16, 800, 15.6, 131.8, 2039.0, 400, datacenter=True),
    Model("H100 PCIE", 81559, 1.60, 1.87, 2.10, 6, 900, 51.2, 250.0, 2039.0, 350, datacenter=True),
    Model("H100 NVL", 95830, 1.73, 1.97, 2.26, 8, 900, 50.9, 377.4, 3938.0, 400, datacenter=True),
    Model("H100 SXM", 81559, 1.53, 1.90, 2.13, 20, 900, 53.5, 353.9, 3350.0, 700, datacenter=True),
    Model("H200", 143771, 2.01, 2.23, 2.99, 16, 900, 53.5, 491.1, 4800.0, 700, datacenter=True),
    Model("B200", 183359, 2.86, 3.33, 3.88, 5, 1000, 59.6, 589.0, 8000.0, 1000, datacenter=True),
)

OLD_MODELS = (
    Model("GTX 1080 Ti", 11264, 0.03, 0.05, 0.09, 0, 610, 11.3, 11.0, 484.0, 250),
    Model("GTX TITAN X", 12288, 0.03, 0.05, 0.09, 0, 520, 6.7, 6.5, 336.0, 250),
    Model("Tesla P40", 24576, 0.05, 0.08, 0.12, 0, 610, 11.8, 11.4, 347.0, 250, datacenter=True),
    Model("Tesla P100", 16384, 0.05, 0.08, 0.12, 0, 600, 9.5, 10.1, 732.0, 250, datacenter=True),
    Model("Tesla K80", 11441, 0.02, 0.03, 0.05, 0, 370, 4.1, 3.1, 240.0, 300, datacenter=True),
)
"""Models for which newer CUDA versions are not made. They are on odd hosts only."""


class Shape(NamedTuple):
    """How a host divides a machine: its number of GPUs, its smallest chunk, and the relative frequency."""

    gpus: int
    smallest: int
    weight: int


HOME_SHAPES = (
    Shape(1, 1, 281),
    Shape(2, 1, 80),
    Shape(2, 2, 90),
    Shape(3, 1, 12),
    Shape(4, 1, 70),
    Shape(4, 2, 38),
    Shape(4, 4, 60),
    Shape(5, 1, 8),
    Shape(6, 1, 8),
    Shape(7, 1, 3),
    Shape(8, 1, 45),
    Shape(8, 2, 18),
    Shape(8, 4, 15),
    Shape(8, 8, 45),
    Shape(10, 1, 3),
    Shape(12, 1, 3),
    Shape(14, 2, 3),
    Shape(16, 16, 4),
)
DATACENTER_SHAPES = (
    Shape(1, 1, 25),
    Shape(2, 1, 25),
    Shape(4, 1, 20),
    Shape(8, 1, 35),
    Shape(8, 2, 8),
    Shape(8, 4, 6),
    Shape(8, 8, 15),
)

PLACES = (
    ("Alberta, CA", 5),
    ("British Columbia, CA", 4),
    ("Quebec, CA", 5),
    ("California, US", 8),
    ("Florida, US", 3),
    ("Michigan, US", 4),
    ("Oregon, US", 3),
    ("Texas, US", 7),
    ("Utah, US", 3),
    ("Virginia, US", 4),
    (", US", 4),
    ("Bulgaria, BG", 3),
    ("Czechia, CZ", 5),
    ("Bavaria, DE", 4),
    ("Germany, DE", 4),
    ("Estonia, EE", 2),
    ("Spain, ES", 3),
    ("Finland, FI", 3),
    ("France, FR", 5),
    ("United Kingdom, GB", 3),
    ("Hungary, HU", 2),
    ("Iceland, IS", 2),
    ("The Netherlands, NL", 5),
    ("Norway, NO", 4),
    ("Poland, PL", 5),
    ("Romania, RO", 3),
    ("Sweden, SE", 4),
    ("Guangxi, CN", 3),
    ("Hong Kong, HK", 3),
    ("Japan, JP", 3),
    ("South Korea, KR", 3),
    ("Thailand, TH", 2),
    ("Taiwan, TW", 4),
    ("Vietnam, VN", 3),
    ("Australia, AU", 2),
)

PROCESSORS = (
    ("AMD EPYC 7543 32-Core Processor", 2.8),
    ("AMD EPYC 7763 64-Core Processor", 2.45),
    ("AMD EPYC 9354 32-Core Processor", 3.25),
    ("AMD Ryzen 9 5950X 16-Core Processor", 3.4),
    ("Core™ i9-13900K ", 3.0),
    ("Xeon® E5-2680 v4 ", 2.4),
    ("Xeon® Gold 6248 ", 2.5),
)

DRIVERS = (
    ("535.183.01", 12.2),
    ("550.127.05", 12.4),
    ("560.35.03", 12.6),
    ("565.57.01", 12.7),
    ("570.124.04", 12.8),
    ("580.95.05", 13.0),
    ("595.58.03", 13.2),
)
"""Drivers with the highest CUDA version of each. The newest models need one of the last three."""

OLD_DRIVERS = (("470.223.02", 11.4), ("515.105.01", 11.7), ("525.147.05", 12.0))
"""Drivers of odd hosts, for models before Blackwell."""
