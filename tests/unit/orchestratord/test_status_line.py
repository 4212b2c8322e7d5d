import pytest
from msgspec.structs import replace

from orchestratord.status_line import Present, status_line

NOW = Present(ready=2, pools=3, managed=True, queued=4, running=1, draining=False)


@pytest.mark.req("OP-01")
def test_what_is_going_on() -> None:
    assert status_line(NOW) == "2/3 pools ready, 4 queued, 1 running"
    assert status_line(replace(NOW, managed=False)) == "2/3 pools ready, 4 queued, 1 running; pool-managerd is away"
    full = replace(NOW, trouble="the task store cannot be written: database or disk is full")
    assert status_line(full).endswith("1 running; the task store cannot be written: database or disk is full")


@pytest.mark.req("OP-01")
def test_what_a_drain_still_waits_for() -> None:
    draining = replace(NOW, draining=True)
    assert status_line(draining) == "draining, 1 stream left; 4 queued for the next start"
    assert status_line(replace(draining, running=2, queued=0)) == "draining, 2 streams left"
