import errno
import socket

import pytest

from daemon_core import ports
from tests.support.ports import HeldPort


@pytest.mark.req("EP-08", "PM-03")
def test_a_port_is_refused_while_somebody_listens_and_an_address_that_is_not_ours_always() -> None:
    held = HeldPort()
    assert ports.refusal("127.0.0.1", held.number) is None
    elsewhere = ports.refusal("192.0.2.1", held.number)  # an address of documents alone
    held.close()
    assert elsewhere is not None
    assert elsewhere.errno == errno.EADDRNOTAVAIL
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refused = ports.refusal("127.0.0.1", listener.getsockname()[1])
    assert refused is not None
    assert refused.errno == errno.EADDRINUSE
