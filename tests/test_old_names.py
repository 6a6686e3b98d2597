"""Modules under the names that they had before they stood in packages."""

import importlib
import sys

import pytest

from lanczos_saddle.old_names import MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_name_gives_the_module_that_took_its_place(old):
    if f"lanczos_saddle.{old}" in sys.modules:
        del sys.modules[f"lanczos_saddle.{old}"]
    with pytest.warns(DeprecationWarning, match=f"is now lanczos_saddle.{MOVED[old]}"):
        found = importlib.import_module(f"lanczos_saddle.{old}")
    there = importlib.import_module(f"lanczos_saddle.{MOVED[old]}")
    assert found is there
    assert there.__spec__.name == f"lanczos_saddle.{MOVED[old]}"


def test_what_is_set_under_the_old_name_is_set(monkeypatch):
    from lanczos_saddle.counting import planning

    sys.modules.pop("lanczos_saddle.planning", None)
    with pytest.warns(DeprecationWarning, match="planning"):
        old = importlib.import_module("lanczos_saddle.planning")
    monkeypatch.setattr(old, "DEAD", 3)
    assert planning.DEAD == 3


def test_other_names_are_not_there():
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        importlib.import_module("lanczos_saddle.nowhere")
