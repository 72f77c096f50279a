"""Every example in a docstring prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

import course
import labkit

MODULES = sorted(
    found.name
    for package in (labkit, course)
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, home, monkeypatch):
    monkeypatch.setenv("LABKIT_HOME", str(home))
    monkeypatch.delenv("LABKIT_DATA", raising=False)
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
