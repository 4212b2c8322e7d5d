"""An object store (moto's) on the loopback, in a process of its own, and what is in it."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import botocore.session
import pytest
from botocore.config import Config

BUCKET = "models"
KEY_ID, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
_RUNNING = re.compile(rb"Running on http://(127\.0\.0\.1:\d+)")


class ObjectStore:
    """A store that answers at ``address``; ``client`` is botocore's, for filling it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.url = f"http://{address}"
        session = botocore.session.Session()
        session.set_config_variable("metadata_service_num_attempts", 0)
        session.set_credentials(KEY_ID, SECRET)
        self.client: Any = session.create_client(
            "s3", region_name="us-east-1", endpoint_url=self.url, config=Config(retries={"total_max_attempts": 1})
        )

    def empty(self) -> None:
        """Forget everything, and have the bucket."""
        connection = http.client.HTTPConnection(self.address, timeout=50)
        connection.request("POST", "/moto-api/reset")
        assert connection.getresponse().status == 200
        connection.close()
        self.client.create_bucket(Bucket=BUCKET)

    def put(self, key: str, data: bytes, *, bucket: str = BUCKET, **more: str) -> None:
        """Put an object."""
        self.client.put_object(Bucket=bucket, Key=key, Body=data, **more)


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """A store with one empty bucket. It is slow to start: tests may have one together, and ``empty`` it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
    )
    assert process.stderr is not None
    try:
        store = ObjectStore(_address(process.stderr))
        reader = threading.Thread(target=process.stderr.read)  # else it would wait for somebody to read
        reader.start()
        try:
            store.empty()
            yield store
        finally:
            store.client.close()
            process.kill()
            reader.join()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def _address(said: IO[bytes]) -> str:
    heard = b""
    for line in said:
        heard += line
        if found := _RUNNING.search(line):
            return found[1].decode()
    raise AssertionError(heard.decode())


def use(store: str, patch: pytest.MonkeyPatch, home: str, **more: str) -> None:
    """The environment of somebody with credentials for the store at this URL, and with nothing else of AWS's."""
    nobody(patch, home)
    given = {"AWS_ENDPOINT_URL": store, "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
    for name, value in (given | more).items():
        patch.setenv(name, value)


def nobody(patch: pytest.MonkeyPatch, home: str) -> None:
    """The environment of somebody who was never near AWS."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            patch.delenv(name)
    patch.setenv("HOME", home)
