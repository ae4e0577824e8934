"""Where numbers were lost: the first part of a host that made something which is not finite, once a loss or a gradient is not."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def first_lost(named: Iterable[tuple[str, Tensor | None]]) -> str | None:
    """The name of the first tensor that is not finite throughout; None where there is none."""
    return next((name for name, tensor in named if tensor is not None and not bool(tensor.isfinite().all())), None)


@torch.no_grad()
def first_lost_module(module: nn.Module, call: Callable[[], object]) -> str | None:
    """The name of the innermost part of `module` whose output is the first that is not finite while `call` runs it."""
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(part: nn.Module, arguments: object, output: object) -> None:
            tensors = output if isinstance(output, tuple) else (output,)
            if not found and first_lost((name, tensor) for tensor in tensors if isinstance(tensor, Tensor)):
                found.append(name)

        return hook

    handles = [part.register_forward_hook(look(name)) for name, part in module.named_modules() if name]
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
