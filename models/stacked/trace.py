"""What a training leaves to be compared with another: the first losses of one fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Trace:
    """The first `limit` losses of one fold, noted while it trains; training stops after them."""

    fold: int
    limit: int
    losses: list[Tensor] = field(default_factory=list)

    def note(self, losses: Tensor, active: Sequence[bool]) -> bool:
        """Losses (F,) of one step, and which folds took it. True when it was the last to note."""
        if active[self.fold]:
            self.losses.append(losses[self.fold].detach().clone())
        return len(self.losses) >= self.limit
