"""Models whose parameters lie in parts on several processes (FSDP2): each part is an ordinary tensor within a `DTensor`."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from utils.distributed import is_main


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds a part of the parameters only: then all processes must run the model together, or none."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def shard_like(whole: Tensor, parameter: Tensor) -> Tensor:
    """This process's part of a tensor that all of them hold, cut as the parameter is; `whole` itself if that is not."""
    if not isinstance(parameter, DTensor) or isinstance(whole, DTensor):
        return whole
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)


def reshard(model: nn.Module) -> None:
    """Lets go of what a model gathered from other processes: the next pass gathers it anew."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Name -> whole parameter, copied to main memory, on the main process; nothing on the others, which all must take part."""
    found = {}
    for name, parameter in model.named_parameters():
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter.detach()
        if is_main():
            found[name] = whole.to("cpu", copy=True)
    return found
