"""The server's routes are exactly the operations of the OpenAPI document."""

from pathlib import Path

import pytest

from contracts.operations import OPERATIONS
from orchestratord.http.queries import KNOWN
from tests.integration.orchestratord.house import house


@pytest.mark.req("HP-27")
async def test_every_operation_has_its_route_and_every_route_its_operation(tmp_path: Path) -> None:
    documented = {(operation.method.upper(), operation.path) for operation in OPERATIONS}
    async with house(tmp_path) as here:
        served = {
            (route.method, route.resource.canonical)
            for route in here.app.router.routes()
            if route.resource is not None and route.method != "HEAD"  # aiohttp answers HEAD wherever there is a GET
        }
    assert served == documented


@pytest.mark.req("HP-27")
def test_the_query_parameters_that_are_heeded_are_those_of_the_document() -> None:
    assert {
        (operation.method.upper(), operation.path): frozenset(
            parameter.name for parameter in operation.parameters if parameter.place == "query"
        )
        for operation in OPERATIONS
        if 400 in operation.answers
    } == KNOWN


@pytest.mark.req("ORCH-3810")
async def test_only_what_the_document_calls_open_needs_no_token(tmp_path: Path) -> None:
    async with house(tmp_path, token="a-token") as here:
        for operation in OPERATIONS:
            path = operation.path.replace("{task_id}", "t").replace("{pool_id}", "p").replace("{model_id}", "m")
            async with here.client.request(operation.method, path) as answer:
                assert (answer.status == 401) is not operation.open, operation
