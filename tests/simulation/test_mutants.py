"""The planted bugs: each fits the code as it is, is gone afterwards, and something kills it.

All of them, one after the other: `python -m simulation.kill` and `python -m simulation.kill --tests`.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.cluster.postgres import directory, janitor, reads, statements
from perdure.entities.engine.activation import Activation
from perdure.entities.engine.turns.record import Record
from perdure.entities.store.memory import MemoryStore
from simulation.catalogue import workloads
from simulation.kill import QUICK
from simulation.killers import surviving
from simulation.mutants import MUTANTS, Mutant
from simulation.surgery import Stale, Surgery

ROOT = Path(__file__).resolve().parents[2]


def code_as_it_is() -> list[object]:
    """All that mutants change, as far as it can be compared."""
    classes = {cls for one in (Activation, MemoryStore) for cls in one.__mro__}
    methods = [getattr(value, "__code__", value) for cls in classes for value in vars(cls).values()]
    texts = [statement.template for statement in statements.ORDER]
    texts += [text for module in (directory, janitor, reads) for text in vars(module).values() if isinstance(text, str)]
    return [*methods, *texts]


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=list(MUTANTS))
def test_it_fits_the_code_and_leaves_nothing_behind(mutant: Mutant) -> None:
    before = code_as_it_is()
    for _ in range(2):
        with mutant.planted():
            pass
        assert code_as_it_is() == before


@pytest.mark.timeout(250)
def test_a_few_seeds_kill_the_easy_ones() -> None:
    """All of them: `make mutants`, results in docs/reports/mutants.md."""
    command = [sys.executable, "-m", "simulation.kill", "--quick", "--jobs", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert not done.returncode, f"{done.stdout[-3_000:]}\n{done.stderr[-2_000:]}"
    assert f"OK: all killed ({len(QUICK)} mutants)" in done.stdout
    assert done.stdout.count("\n| ") == len(QUICK) + 1, "the table"


def test_every_mutant_names_a_workload() -> None:
    assert {mutant.workload for mutant in MUTANTS.values()} <= set(workloads())


def test_the_list_of_the_reference_is_complete_and_names_its_killers() -> None:
    assert [name for name in MUTANTS if name.startswith("M")] == [f"M{number}" for number in range(1, 21)]
    for mutant in MUTANTS.values():
        assert mutant.tests, mutant
        for test in mutant.tests:
            path, name = re.fullmatch(r"([\w/.]+)::(\w+)(?:\[.*\])?", test).groups()  # type: ignore[union-attr]
            assert re.search(rf"def {name}\(", (ROOT / path).read_text(encoding="utf-8")), f"{mutant}: no {test}"
    for number in range(1, 9):
        tests = MUTANTS[f"M{number}"].tests
        assert any("tests/store/test_promises.py" in test or "[postgres" in test for test in tests), number


def test_changed_words_run_where_the_function_was_called_from() -> None:
    class Greeter:
        def greet(self, name: str) -> str:
            words = [name, "hello"]
            return " ".join(sorted(words, key=lambda word: (len(word), self.loudness(word))))

        def loudness(self, word: str) -> int:
            return sum(map(str.isupper, word))

    greet = Greeter().greet
    assert greet("Ada") == "Ada hello"
    with Surgery() as code:
        code.rewrite(Greeter.greet, "len(word)", "-_size(word)", _size=len)
        code.rewrite(Greeter.greet, '"hello"', '"good bye"')
        assert greet("Ada") == "good bye Ada"
    assert greet("Ada") == "Ada hello"
    with pytest.raises(Stale, match="'words' 2 times"), Surgery() as code:
        code.rewrite(Greeter.greet, "words", "letters")
    assert "_size" not in globals()
    assert Record.is_idle.__code__.co_filename.endswith("record.py")


def test_a_killer_is_told_from_a_test_that_notices_nothing() -> None:
    noticed = MUTANTS["N13"].tests[0]
    blind = "tests/engine/test_p1_exactly_once.py::test_a_call_is_applied_once_and_answered_with_its_result"
    assert surviving("N13", [noticed, blind]) == [blind]
