"""What a training loop shows after each of its steps, and the first losses, kept.

Our loops are generators of `Step`: whoever runs one decides how far it goes (`follow`), and may
read and set the state of its folds between two steps (models/stacked/proof.py).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Step:
    """A step that a loop of F folds has just made.

    `losses` (F,), `active`: which folds took it. `state_of(fold)` is a fold's network and
    optimiser, named as in its resume point, `load(fold, state)` sets them, `store()` brings the
    folds' networks up to date.
    """

    losses: Tensor
    active: Sequence[bool]
    state_of: Callable[[int], State]
    load: Callable[[int, State], None]
    store: Callable[[], None]


Loop = Generator[Step, None, None]


@dataclass
class Trace:
    """The first `limit` losses of one fold, noted while it trains; training stops after them."""

    fold: int
    limit: int
    losses: list[Tensor] = field(default_factory=list)

    def note(self, step: Step) -> bool:
        """Keep the fold's loss of a step that it took. True when it was the last to keep."""
        if step.active[self.fold]:
            self.losses.append(step.losses[self.fold].detach().clone())
        return len(self.losses) >= self.limit


def follow(loop: Loop, trace: Trace | None) -> None:
    """Run a loop to its end, or until the trace has all it wants."""
    for step in loop:
        if trace is not None and trace.note(step):
            loop.close()
