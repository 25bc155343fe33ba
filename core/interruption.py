"""How a computation is ended from outside, in whatever loop it is: loops ask, and what they ask may raise.

    with interruptible(check):
        for iterate in ensemble(problem, method, seed=0):
            ...

`check` is called between the steps of every inner loop (conjugate gradients, Langevin steps, the walk of a
purification, rows of coil maps, blocks of a projector) and after every layer of a network, on its way forward and, on
the CPU, on its way back. Whatever it raises leaves the computation, which holds nothing to be cleared up.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

Check = Callable[[], None]
"""Returns at once while the computation is to go on, and raises an exception of the caller's own when it is not."""

_CHECK: ContextVar[Check | None] = ContextVar("check", default=None)


@contextmanager
def interruptible(check: Check) -> Iterator[None]:
    """While this lasts, what is computed in this thread asks `check`, often, whether it may go on."""
    # Files are written by processes without PyTorch too; they only ask.
    from torch.nn.modules.module import register_module_forward_hook

    token = _CHECK.set(check)
    hook = register_module_forward_hook(_layer_done)
    try:
        yield
    finally:
        hook.remove()
        _CHECK.reset(token)


def check_interruption() -> None:
    """Ask whether to go on; does nothing outside `interruptible`. Raises what its check raises."""
    check = _CHECK.get()
    if check is not None:
        check()


def _layer_done(_: "nn.Module", __: tuple[Any, ...], output: Any) -> None:
    from torch import Tensor

    check_interruption()
    if isinstance(output, Tensor) and output.requires_grad:
        # Called in the thread that goes backwards: on the CPU the same one.
        output.register_hook(_gradient_done)  # type: ignore[no-untyped-call]


def _gradient_done(_: "Tensor") -> None:
    check_interruption()
