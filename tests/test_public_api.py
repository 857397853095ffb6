"""Every public name of tests/reference/public_api.json still exists, has its parameters, and works when called."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any

import pytest
from generate.public_api import FILE, commands, default
from support.public_calls import CALLS, INSTANCES, MEMBERS, OPS, Context

from minilm_np import SentenceTransformer

API: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
COMMANDS = API.pop("commands")
NAMES: dict[str, Any] = {
    f"{module}.{name}": described for module, names in API.items() for name, described in names.items()
}
VARIADIC = ("VAR_POSITIONAL", "VAR_KEYWORD")
LIBRARIES = {  # the start of names -> the library that their calls need
    "minilm_np.crosscheck.plot": "matplotlib",
    "minilm_np.evaluate.BinaryClassificationEvaluator": "sklearn",
    "minilm_np.evaluate.EmbeddingSimilarityEvaluator": "scipy",
    "minilm_np.evaluate.RerankingEvaluator": "sklearn",
    "minilm_np.evaluate.evaluate": "scipy",
    "minilm_np.integrations.bertopic": "bertopic",
    "minilm_np.integrations.chroma": "chromadb",
    "minilm_np.integrations.haystack": "haystack",
    "minilm_np.integrations.keybert": "keybert",
    "minilm_np.integrations.langchain": "langchain_core",
    "minilm_np.integrations.llama_index": "llama_index.core",
    "minilm_np.integrations.mteb": "mteb",
    "minilm_np.integrations.sklearn": "sklearn",
}
MARKS = (pytest.mark.integrations, pytest.mark.filterwarnings("default"))  # the frameworks issue warnings


def cases(names: Iterable[str]) -> list[Any]:
    """Return the names as parameters of a test, with marks on the integrations."""
    return [pytest.param(name, marks=MARKS if ".integrations." in name else ()) for name in names]


def skip_without_library(name: str) -> None:
    for start, library in LIBRARIES.items():
        if name.startswith(start):
            pytest.importorskip(library, exc_type=ImportError)


def look_up(name: str) -> Any:
    if ".integrations." in name:
        skip_without_library(name)
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


@pytest.fixture(scope="module")
def context(
    model: SentenceTransformer, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Context:
    return Context(model, tmp_path_factory.mktemp("public_api"), request)


# --- names and signatures


def assert_accepts_earlier_calls(function: Any, described: list[list[str]]) -> None:
    """Assert that every earlier parameter has its name, kind, default and place, and new ones have a default."""
    parameters = inspect.signature(function).parameters
    kinds = {kind for _, kind, _ in described}
    assert kinds.intersection(VARIADIC) <= {p.kind.name for p in parameters.values()}
    for name, kind, default_value in described:
        if kind not in (*VARIADIC, "POSITIONAL_ONLY"):
            assert name in parameters, f"{name}: parameter is gone"
            parameter = parameters[name]
            actual = "" if parameter.default is parameter.empty else default(parameter.default)
            assert (parameter.kind.name, actual) == (kind, default_value), name
    earlier = {name for name, *_ in described}
    positional = [p for p in parameters.values() if p.kind.name.startswith("POSITIONAL")]
    places = [name for name, kind, _ in described if kind.startswith("POSITIONAL")]
    assert len(positional) >= len(places)
    for place, (parameter, name) in enumerate(zip(positional, places, strict=False)):
        assert parameter.name == name or parameter.kind.name == "POSITIONAL_ONLY", (
            f"{name}: is no longer argument {place}"
        )
    for parameter in parameters.values():
        if parameter.name not in earlier and parameter.kind.name not in (*VARIADIC, "POSITIONAL_ONLY"):
            assert parameter.default is not parameter.empty, f"{parameter.name}: a new parameter without a default"


@pytest.mark.parametrize("name", cases(NAMES))
def test_name_has_its_parameters_and_members(name: str) -> None:
    value, described = look_up(name), NAMES[name]
    if isinstance(described, str):
        assert type(value).__name__ == described
        return
    assert {base.__name__ for base in getattr(value, "__mro__", ())} >= set(described.get("bases", ()))
    if "parameters" in described and not getattr(value, "_is_protocol", False):
        assert_accepts_earlier_calls(value, described["parameters"])
    for member, of_member in described.get("members", {}).items():
        assert hasattr(value, member), member
        if isinstance(of_member, dict):
            assert_accepts_earlier_calls(getattr(value, member), of_member["parameters"])


def test_commands_have_their_flags() -> None:
    actual = commands()
    for command, arguments in COMMANDS.items():
        flags = {flag: described for names, described in actual[command].items() for flag in names.split(", ")}
        for names, described in arguments.items():
            for flag in names.split(", "):
                assert flags.get(flag) == described, f"{command} {flag}"


# --- calls


def test_every_public_name_has_a_call() -> None:
    classes = {name: described["members"] for name, described in NAMES.items() if "members" in described}
    assert set(INSTANCES) == set(classes) - {"minilm_np.util.SimilarityFunction"}  # an Enum is not instantiated
    assert set(CALLS) == set(NAMES) - set(classes)
    assert set(OPS) | {"prepare_dense"} == set(classes.pop("minilm_np.model.Ops"))  # ops.py has these functions
    assert {name: set(calls) for name, calls in MEMBERS.items()} == {
        name: set(members) for name, members in classes.items() if members
    }


@pytest.mark.parametrize("name", cases(CALLS))
def test_function_works(name: str, context: Context) -> None:
    skip_without_library(name)
    assert CALLS[name](context)


@pytest.mark.parametrize("name", cases(INSTANCES))
def test_class_has_its_attributes(name: str, context: Context) -> None:
    cls, described = look_up(name), NAMES[name]
    instance = INSTANCES[name](context)
    if not getattr(cls, "_is_protocol", False):
        assert isinstance(instance, cls)
    fields = [field for field, *_ in described["parameters"]] if is_dataclass(cls) or issubclass(cls, tuple) else []
    for attribute in (*fields, *described["attributes"], *described["members"]):
        assert hasattr(instance, attribute), attribute


@pytest.mark.parametrize("name", cases(f"{name}.{member}" for name, table in MEMBERS.items() for member in table))
def test_member_works(name: str, context: Context) -> None:
    skip_without_library(name)
    owner, _, member = name.rpartition(".")
    instance = INSTANCES[owner](context) if owner in INSTANCES else look_up(owner)
    assert MEMBERS[owner][member](instance, context)
