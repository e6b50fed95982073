"""The API keeps to its own description, whatever is sent."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from brokerd.api.openapi import openapi_document
from brokerd.clock import SystemClock
from brokerd.store.memory import MemoryState

DOCUMENT = json.loads(openapi_document())
OPERATIONS = [
    (method.upper(), path)
    for path, item in DOCUMENT["paths"].items()
    for method in item
    if method != "parameters"
]
KEY = {"Authorization": "Bearer 0123456789abcdef0123456789abcdef"}


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=lambda part: part)
def test_answers_are_as_described(new_api, method, path, mode):
    """Statuses, types, bodies and headers are those described, and bad requests are refused.

    What the types cannot say, as which tokens are configured, may refuse a good-looking body.
    """
    api = new_api(MemoryState(clock=SystemClock()))
    schema = schemathesis.openapi.from_asgi("/openapi.json", api.app)
    operation = schema[path][method]
    if (
        mode is GenerationMode.NEGATIVE
        and "{" not in path
        and not operation.definition.raw.get("parameters")
    ):
        pytest.skip("nothing to get wrong")

    @settings(
        max_examples=20,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def play(case):
        case.call_and_validate(headers=KEY, excluded_checks=[positive_data_acceptance])

    play()


def test_every_address_is_described(new_api):
    """What the application answers and what the description names are the same.

    What is asked of a link stands behind a colon, and shares the link's address.
    """
    app = new_api(MemoryState(clock=SystemClock())).app._app
    served = {
        (method, route.path_format)
        for route in app.routes
        for method in route.methods - {"OPTIONS"}
    }
    assert served == {(method, path.partition(":")[0]) for method, path in OPERATIONS}


def test_the_description_is_openapi_3_1():
    """It is valid, and says that unknown fields are refused."""
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    schema.validate()
    assert schema.specification.version == "3.1.0"
    for name in ("PutBody", "SpecBody", "IdentityBody", "MetaApiBody"):
        assert DOCUMENT["components"]["schemas"][name]["additionalProperties"] is False
