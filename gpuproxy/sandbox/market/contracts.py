"""What an instance's contract says at the moment it is made, from the offer, the launch and what goes wrong with it."""

from gpuproxy.sandbox.market.instances import Instance, Launch, Phase, Twist, microseconds
from gpuproxy.sandbox.market.machines import Chunk


def contract(
    number: int,
    account: str,
    chunk: Chunk,
    launch: Launch,
    twist: Twist,
    *,
    api_key: str,
    ports: dict[str, int],
    now: float,
) -> Instance:
    """A contract that is stopped; it bills disk from now on."""
    price = chunk.price if launch.bid is None else launch.bid
    machine = chunk.machine
    return Instance(
        id=number,
        account=account,
        machine_id=machine.id,
        mask=chunk.mask,
        gpus=chunk.gpus,
        gpu_model=twist.gpu_name or str(machine.columns["gpu_name"]),
        gpu_ram=twist.gpu_ram or int(str(machine.columns["gpu_ram"])),
        gpu_price=round(price * twist.price_factor),
        storage=machine.storage,
        launch=launch,
        label=launch.label,
        api_key=api_key,
        created_at=now,
        end_date=float(str(machine.columns["end_date"])),
        phase=Phase.STOPPED,
        loading_at=now,
        boot_at=None,
        dies_after=twist.dies_after,
        failure=twist.failure,
        no_ssh=twist.no_ssh,
        shyness=twist.shyness,
        ports=ports,
        metered_us=microseconds(now),
    )
