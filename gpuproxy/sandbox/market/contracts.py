"""Creates an instance's contract from the offer, the launch and the instance's defects, and its record at the end."""

from gpuproxy.sandbox.market.instances import Ended, Instance, InstanceDefects, Launch, Phase, microseconds
from gpuproxy.sandbox.market.machines import Chunk


def contract(
    number: int,
    account: str,
    chunk: Chunk,
    launch: Launch,
    defects: InstanceDefects,
    *,
    api_key: str,
    now: float,
) -> Instance:
    """A new contract in the phase "stopped", without addresses; its disk is billed from now on."""
    price = chunk.price if launch.bid is None else launch.bid
    machine = chunk.machine
    return Instance(
        id=number,
        account=account,
        machine_id=machine.id,
        mask=chunk.mask,
        gpus=chunk.gpus,
        gpu_model=defects.gpu_name or str(machine.columns["gpu_name"]),
        gpu_ram=defects.gpu_ram or int(str(machine.columns["gpu_ram"])),
        gpu_price=round(price * defects.price_factor),
        storage=machine.storage,
        launch=launch,
        label=launch.label,
        api_key=api_key,
        created_at=now,
        end_date=float(str(machine.columns["end_date"])),
        phase=Phase.STOPPED,
        loading_at=now,
        boot_at=None,
        dies_after=defects.dies_after,
        failure=defects.failure,
        unreachable=defects.unreachable,
        keys_refreshed_after=defects.keys_refreshed_after,
        misreport=defects.misreport,
        metered_us=microseconds(now),
    )


def ended_contract(instance: Instance, now: float, billed: int) -> Ended:
    """The record of an instance that is destroyed now; `billed` is its total cost in micro-dollars."""
    return Ended(
        id=instance.id,
        account=instance.account,
        label=instance.label,
        gpu_model=instance.gpu_model,
        num_gpus=instance.gpus,
        machine_id=instance.machine_id,
        price=instance.price,
        created_at=instance.created_at,
        destroyed_at=now,
        billed=billed,
        volume_ids=tuple(instance.launch.volumes),
        gpu_times=tuple(instance.gpu_times(now, online=False)),
    )
