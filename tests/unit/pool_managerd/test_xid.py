import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_managerd.xid import explain


@pytest.mark.req("PM-03")
@pytest.mark.parametrize("number", [8, 13, 31, 32, 43, 45, 63, 68, 69, 92, 94, 154])
def test_errors_of_the_application_and_what_the_gpu_contains_leave_the_gpu_in_use(number: int) -> None:
    xid = explain(number)
    assert not xid.fatal
    assert "does not know" not in xid.meaning


@pytest.mark.req("PM-03")
@pytest.mark.parametrize(
    ("number", "meaning", "mend"),
    [
        (48, "uncorrectable", "reset"),
        (62, "halted", "reset"),
        (64, "could not be taken out of use", "reset"),
        (74, "NVLink", "nvlink"),
        (79, "fallen off the bus", "power"),
        (95, "not contained", "reset"),
        (119, "does not answer the driver", "update the NVIDIA driver"),
        (120, "GSP", "update the NVIDIA driver"),
        (140, "uncorrectable", "reset"),
        (143, "could not be initialized", "reboot"),
        (147, "NVLink", "nvlink"),
    ],
)
def test_a_gpu_that_cannot_be_trusted_is_said_so_with_the_mend(number: int, meaning: str, mend: str) -> None:
    xid = explain(number)
    assert xid.fatal
    assert meaning in xid.meaning
    assert mend in xid.hint


@given(st.integers(0, 2**64 - 1))
def test_every_number_has_a_meaning_and_a_mend(number: int) -> None:
    xid = explain(number)
    assert xid.number == number
    assert xid.meaning
    assert xid.hint
    assert not (xid.fatal and "does not know" in xid.meaning)
