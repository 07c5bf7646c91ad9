"""How long the stages of a run took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Seconds per stage; a stage whose artefact was found has none."""

    seconds: dict[str, float] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str, found: bool = False) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = 0.0 if found else round(time.perf_counter() - start, 2)
        if found:
            self.found.append(name)
