"""A recorded market: CSV rows become machines with chunks, GPU ids, hosts and locations.

The columns are those of `vast_market_2026-06-12_normalized.csv`. The rows of one machine_id are its offers; rows of
equal size and equal `rentable` were merged into one. These rules restore the machines:

1. F is the largest size with rentable=true, or 0 without one. F GPUs are free, the others are used by other customers.
   The machine has max(false sizes) GPUs if that is more than F; otherwise it has F + max(false sizes) GPUs.
2. The last F GPUs are the free ones. Chunks of each size with rentable=true fill the free block from its start, as
   many as fit. Chunks of each size with rentable=false fill the machine from its first GPU, as many as begin at a used
   GPU. So each recorded row appears again with its flag, and becomes rentable when the other customers leave.
3. Price per GPU, storage price, processor, network and main board are the recorded ones. Cores, memory and disk of the
   whole machine are those of its largest row, scaled up. If the rows have several models or prices, the first counts.
4. GPU ids are assigned in the order of the file. Facts that aren't in the file (owner, location, reliability,
   verification, driver, end date) are drawn from the built-in tables by a generator with the seed (seed, machine_id),
   so that a machine doesn't depend on the other rows of the file.
"""

import csv
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from gpuproxy.model.gpus import gpu_key
from gpuproxy.sandbox.market import hardware
from gpuproxy.sandbox.market.hardware import Model
from gpuproxy.sandbox.market.machines import Blueprint, weighted

_DAY = 86400.0
_Row = dict[str, str]


def recorded(path: Path, seed: int, now: float) -> list[tuple[Blueprint, int]]:
    """The machines, each with the number of its first GPUs that are in use. Raises OSError or ValueError."""
    by_machine: defaultdict[int, list[_Row]] = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if "machine_id" not in (rows.fieldnames or ()):
            raise ValueError(f"{path} is not a recorded market: its first line has no column machine_id")
        for line, row in enumerate(rows, start=2):
            try:
                by_machine[int(row["machine_id"])].append(row)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {line}: machine_id is missing or not a number") from error
    hosts = max(1, len(by_machine) // 3)
    return [_machine(machine_id, rows, seed, hosts, now) for machine_id, rows in by_machine.items()]


def layout(free_sizes: Sequence[int], held_sizes: Sequence[int]) -> tuple[int, int, list[tuple[int, int]]]:
    """By rules 1 and 2: (GPUs of the machine, GPUs in use at its start, chunks as (first GPU, GPUs))."""
    free = max(free_sizes, default=0)
    largest_held = max(held_sizes, default=0)
    gpus = largest_held if largest_held > free else free + largest_held
    held = gpus - free
    chunks = {(start, size) for size in held_sizes for start in range(0, held, size) if start + size <= gpus}
    chunks |= {(start, size) for size in free_sizes for start in range(held, gpus - size + 1, size)}
    return gpus, held, sorted(chunks, key=lambda chunk: (-chunk[1], chunk[0]))


def _machine(machine_id: int, rows: list[_Row], seed: int, hosts: int, now: float) -> tuple[Blueprint, int]:
    sizes = {flag: [int(row["num_gpus"]) for row in rows if row["rentable"] == flag] for flag in ("true", "false")}
    gpus, held, chunks = layout(sizes["true"], sizes["false"])
    rng = random.Random(f"{seed}:recorded:{machine_id}")
    host_id = 3_000 + 97 * rng.randrange(hosts)
    first, largest = rows[0], max(rows, key=lambda row: int(row["num_gpus"]))
    scale = gpus / int(largest["num_gpus"])
    model = _model(first["gpu_name"], int(_number(first["gpu_ram_mb_approx"], 24564)))
    new = model.compute_cap >= 1000
    made = Blueprint(
        id=machine_id,
        model=model,
        gpus=gpus,
        tiles=chunks,
        price_per_gpu=round(float(first["dph_base_per_gpu"]) * 1_000_000),
        storage=round(_number(first["storage_cost"], 0.1) * 1_000_000),
        cpu_name=first["cpu_name"],
        cpu_ghz=2.5,
        cpu_cores=int(_number(first["cpu_cores"], 8 * gpus)),
        ram_mb=int(_number(largest["cpu_ram_gb_bucket"], 32 * gpus) * 1000 * scale),
        disk_gb=_number(largest["disk_space_gb_approx"], 200 * gpus) * scale,
        disk_bw=_number(first["disk_bw"], 500),
        inet_down=_number(first["inet_down"], 100),
        inet_up=_number(first["inet_up"], 100),
        inet_down_tb=float(first["inet_down_cost_per_tb"] or 0),
        inet_up_tb=float(first["inet_up_cost_per_tb"] or 0),
        pcie_bw=_number(first["pcie_bw"], 12),
        mobo_name=first["mobo_name"],
        place=weighted(random.Random(f"{seed}:host:{host_id}"), hardware.PLACES),
        host_id=host_id,
        verified=rng.random() < 0.88,
        reliability=round(min(0.9999, rng.betavariate(40, 1)), 6),
        driver=rng.choice(hardware.DRIVERS[-3:] if new else hardware.DRIVERS),
        end_date=round(now + rng.uniform(30, 365) * _DAY),
    )
    return made, held


def _model(name: str, memory_mb: int) -> Model:
    """The built-in model of this name with the recorded memory; an unknown model is like an RTX 4090."""
    like = next((model for model in hardware.MODELS if gpu_key(model.name) == gpu_key(name)), hardware.MODELS[0])
    return Model(
        name=name,
        memory_mb=memory_mb,
        low=like.low,
        median=like.median,
        high=like.high,
        weight=0,
        compute_cap=like.compute_cap,
        tflops=like.tflops,
        dlperf=like.dlperf,
        bandwidth=like.bandwidth,
        watts=like.watts,
        datacenter=like.datacenter,
    )


def _number(text: str, otherwise: float) -> float:
    """The recorded number; `otherwise` for empty and zero, which mean that it was unknown."""
    return float(text or 0) or otherwise
