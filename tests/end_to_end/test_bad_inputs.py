"""A seeded sample of `scripts/bad_inputs.py`: refused in a line each, none a traceback."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    script("bad_cases").make_fixtures(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_sample_of_bad_inputs_is_refused_in_a_line_each(folder, seed, monkeypatch):
    monkeypatch.chdir(folder)  # some cases name files to write
    cases, tries = script("bad_cases"), script("bad_inputs")
    found = cases.all_cases(folder, seed)
    chosen = tries.draw([case.group for case in found], 40, "")
    wrong = []
    for case in (found[index] for index in chosen):
        outcome, told = tries.attempt(case)
        if outcome not in ("refused", "taken"):
            wrong.append(f"{outcome} [{case.group}] {case.name}: {told}")
    assert not wrong, "\n".join(wrong)


def test_a_sample_of_bad_knobs_and_options_is_refused_in_a_line_each():
    cases, tries = script("bad_cases"), script("bad_inputs")
    found = list(cases.of_knobs())
    assert len(found) > 2000
    outcomes = [(case.name, *tries.attempt(case)) for case in found[::11]]
    assert [each for each in outcomes if each[1] not in ("refused", "taken")] == []


def test_the_draw_takes_every_group_in_turn_and_what_declares_a_value_refuses_it():
    cases, tries = script("bad_cases"), script("bad_inputs")
    drawn = tries.draw(["a"] * 9 + ["b"] * 3 + ["c"], 7, "")
    assert drawn == [0, 1, 2, 9, 10, 11, 12]
    assert cases.fits(int | None, None, None) and not cases.fits(int, None, True)
    assert tries.attempt(cases.Case("g", "n", lambda: None))[0] == "accepted"
    assert tries.attempt(cases.Case("g", "n", lambda: 1 / 0))[0] == "traceback"
    assert tries.attempt(cases.Case("g", "n", lambda: int("x"), named="y"))[0] == "traceback"
    assert tries.attempt(cases.Case("g", "n", lambda: int("x")))[0] == "refused"
