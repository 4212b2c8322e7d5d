"""Writes the golden answers anew; look at the difference before it is kept."""

import asyncio

from tests.standin.golden import write

asyncio.run(write())
