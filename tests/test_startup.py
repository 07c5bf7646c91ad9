"""The law of `loading`: what is imported inside is never looked at again, and the collector is as it was before."""

import gc
from collections.abc import Iterator

import pytest

from lobert.startup import loading


@pytest.fixture
def collector() -> Iterator[None]:
    was_on = gc.isenabled()
    yield
    gc.enable() if was_on else gc.disable()


@pytest.mark.usefixtures("collector")
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("on", [False, True])
def test_the_collector_is_as_it_was(on: bool, fails: bool) -> None:
    gc.enable() if on else gc.disable()
    frozen, made = gc.get_freeze_count(), []
    try:
        with loading():
            assert not gc.isenabled()
            made.extend([] for _ in range(1000))
            if fails:
                raise ImportError
    except ImportError:
        pass
    assert gc.isenabled() == on
    assert gc.get_freeze_count() >= frozen + 1000
