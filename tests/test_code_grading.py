"""Grading of functions: the tests in one box, the answer in another, plain data between them."""

import gzip
import json
import math
import random
import shutil
from collections import deque
from decimal import Decimal
from fractions import Fraction

import pytest
from cheats import CHEATS

from routerlab.core.invariants import Grade
from routerlab.core.queries import Query
from routerlab.grade import packed
from routerlab.grade.answers import VerifyError
from routerlab.grade.code import code
from routerlab.grade.sandbox import Ran, run_code
from routerlab.grade.verify import grade_many

boxed = pytest.mark.skipif(
    shutil.which("bwrap") is None,
    reason="no bubblewrap here: `apt-get install bubblewrap` (0.8 or newer) to test grading of code",
)
SQUARES = "def f(x): return x + x if isinstance(x, list) else x * x"
LISTED = {"test_list": ["assert f(2) == 4", "assert f(3) == 9", "assert f([1]) == [1, 1]"], "timeout_s": 2}
CHECKED = {
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 9\n"
    "    assert candidate([1]) == [1, 1]\n",
    "entry_point": "f",
    "prompt": "def f(x):\n    'x squared; a list twice'\n",
    "timeout_s": 2,
}
CALLED = {
    "entry_point": "f",
    "calls": [{"args": [x], "expect": y} for x, y in ((2, 4), (3, 9), ([1], [1, 1]))],
    "timeout_s": 2,
}


def ask(tests):
    return Query.ask("question", verifier="code", meta={"tests": tests})


def graded(program, *tests, **more):
    """Why a program got its grade by a list of asserts."""
    return code(ask({"test_list": list(tests), **more}), f"```python\n{program}\n```", run_code)


@boxed
@pytest.mark.parametrize("tests", [LISTED, CHECKED, CALLED], ids=["asserts", "check", "calls"])
def test_no_cheat_passes_and_an_honest_answer_does(tests):
    programs = [SQUARES, *CHEATS.values()]
    verdicts = grade_many([ask(tests)] * len(programs), [f"```python\n{p}\n```" for p in programs], workers=2)
    assert (verdicts[0].grade, verdicts[0].why) == (Grade.CORRECT, "match")
    passed = [n for n, v in zip(CHEATS, verdicts[1:], strict=True) if v.grade is not Grade.INCORRECT]
    assert not passed, "a cheat is wrong: neither right nor left out of the grades"
    assert len(CHEATS) >= 25


@boxed
def test_cheats_with_tests_and_answer_in_one_box_do_pass_where_a_user_allows_it():
    """What the two boxes are for: the same answers pass where they share a box with the tests."""
    items = "class I:\n    def __iter__(self): return iter([2])\ndef f(x): return I()"
    assert graded(items, "assert list(f(2)) == [2]").why == "unproxied"
    assert graded(items, "assert list(f(2)) == [2]").quality == 0
    allowed = graded(items, "assert list(f(2)) == [2]", unproxied=True)
    assert (allowed.quality, allowed.why) == (1.0, "unproxied")
    assert graded(items, "assert list(f(2)) == [3]", unproxied=True).quality == 0
    left = "import os\ndef f(x): os._exit(0)"
    assert graded(left, "assert f(lambda: 2) == 2", unproxied=True).why == "mismatch"
    plain = graded("def f(x): return x", "assert f(2) == 2", unproxied=True)
    assert plain.why == "match", "data that can be sent is graded in two boxes all the same"


@boxed
def test_tests_that_can_grade_no_answer_are_an_error_and_no_grade():
    for line, says in (
        ("assert f(lambda: 2) == 2", "unproxied: they pass it an object"),
        ("assert f(2) == undefined()\nassert f(object()) == 2", "unproxied"),
        ("assert 1 == 1", "never call it"),
        ("assert f(2) =", "SyntaxError"),
        ("import nothing_of_this_name\nassert f(2) == 2", "ModuleNotFoundError"),
        ("assert eval(f(2)) == 2", "eval"),
        ("import time\nassert f(time.time()) > 0", "no clock"),
        ("import uuid\nx = f(1)\nassert f(x + uuid.uuid4().int) > 1", "no uuid"),
        (
            "y = 0\nfor _ in range(60):\n    y = succ(y)\nassert f(y) == 60",
            "chain of more than 50 calls; give a shorter",
        ),
        ("for i in range(20_001):\n    assert f(i) == i", "more than 20,000 calls; give fewer"),
    ):
        with pytest.raises(VerifyError, match=says):
            graded("def f(x): return x\ndef undefined(): return 2\ndef succ(x): return x + 1", line)


@boxed
def test_no_answer_makes_itself_an_error_of_the_tests():
    """What an answer returns may break the tests, end them or change their calls: it is wrong all the same."""
    deep = "r = 0\nfor _ in range(100): r = [r]\ndef f(x): return r"
    ending = "class Stop(StopIteration): pass\ndef f(x): raise Stop if x else StopIteration"
    random = "import random\ndef f(x): return random.random()"
    looped = "y = 2\nwhile y != 1:\n    y = f(y)\nassert y == 1"
    for program, line, whys in (
        (deep, "assert f(f(1)) == 1", {"unproxied"}),
        ("def f(x): return '('", "import ast\nassert ast.literal_eval(f(1)) == 1", {"crash"}),
        (ending, "assert all(map(f, [1, 2]))", {"crash"}),
        (ending, "assert all(map(f, [0, 2]))", {"crash"}),
        (random, "assert f(f(1)) == 1\nassert f(f(2)) == 2", {"unproxied"}),
        ("def f(x): return x + 1", looped, {"unproxied"}),
        ("def f(x): return iter([x])", "assert f(f(1)) == 1", {"unproxied"}),
        ("def f(x): return range(10 ** 18)", "assert list(f(1)) == [1]", {"memory"}),
        ("from fractions import Fraction\ndef f(x): return Fraction(1, 3)", "assert f(f(1)) == 1", {"mismatch"}),
    ):
        assert graded(program, line, timeout_s=2).why in whys, (program, line)
    assert graded("def f(x): return x // 2", looped).why == "match"


@boxed
@pytest.mark.parametrize(
    ("program", "tests", "why"),
    [
        # Data keeps its type on the way.
        ("def f(x): return x", "assert f((1, 2)) == (1, 2) and type(f([(1,)])[0]) is tuple", "match"),
        ("def f(x): return list(x)", "assert f((1, 2)) == (1, 2)", "mismatch"),
        ("def f(x): return float(x)", "assert type(f(2)) is int", "mismatch"),
        ("def f(x): return int(x)", "assert type(f(True)) is int and f(True) is not True", "match"),
        ("def f(x): return str(x)", "assert f(4) == 4", "mismatch"),
        ("def f(x): return x + 1e-9", "assert abs(f(0.1) - 0.1) < 1e-6", "match"),
        ("def f(x): return x + 1e-3", "assert abs(f(0.1) - 0.1) < 1e-6", "mismatch"),
        ("def f(x): return 0.1 + 0.2", "assert f(0) == 0.30000000000000004", "match"),
        ("def f(*a): return a", "x = {1: [b'a', {2j}], None: frozenset('ab')}\nassert f(x, 1) == (x, 1)", "match"),
        ("import collections\ndef f(x): return collections.Counter(x)", "assert f('aab') == {'a': 2, 'b': 1}", "match"),
        ("def f(n): return 7 ** n", "assert f(9000) == 7 ** 9000", "match"),
        ("def f(x, kind): return [y for y in x if type(y) is not kind]", "assert f([1, 'a'], str) == [1]", "match"),
        # Arguments changed in place, under the tests' own name and inside.
        ("def f(x): x.sort(); x.append(0)", "x = y = [2, 1]\nf(x)\nassert y == [1, 2, 0]", "match"),
        ("def f(x): x['a'][0].append(1)", "a = []\nf({'a': (a, 2)})\nassert a == [1]", "match"),
        ("def f(x): return [*x].sort()", "x = [2, 1]\nf(x)\nassert x == [1, 2]", "mismatch"),
        ("def f(x): x.append(x)", "x = []\nf(x)\nassert x == []", "unproxied"),
        # Exceptions reach the tests.
        ("def f(x): raise ValueError('no')",
         "try:\n    f(1)\n    assert False\nexcept ValueError as e:\n    assert 'no' in str(e)", "match"),
        ("def f(x): return 1",
         "try:\n    f(1)\n    assert False, 'f did not raise'\nexcept ValueError:\n    pass", "mismatch"),
        ("def f(x): return 1 / x", "assert f(0) == 0", "crash"),
        ("def f(x): assert x", "assert f(0) == 0", "mismatch"),
        ("def f(x): return bytearray(1 << 40)", "assert f(0) == 0", "memory"),
        ("def f(x):\n    while x: pass", "assert f(1) == 0", "timeout"),
        ("class Bad(ValueError): pass\ndef f(x): raise Bad('no')",
         "try:\n    f(1)\n    assert False\nexcept ValueError as e:\n"
         "    assert (type(e).__name__, str(e), e.args) == ('Bad', 'no', ('no',))", "match"),
        ("class Bad(ValueError): pass\ndef f(x): raise Bad('no')",
         "try:\n    f(1)\nexcept TypeError:\n    pass", "crash"),
        ("class Bad(KeyError, ValueError):\n    def __str__(self): return 'bad'\ndef f(x): raise Bad(x)",
         "for kind in (KeyError, ValueError):\n    try: f(1)\n"
         "    except kind as e: assert (str(e), e.args) == ('bad', (1,))", "match"),
        ("import json\ndef f(x): return json.loads(x)",
         "try:\n    f('x')\n    assert False\nexcept ValueError as e:\n    assert 'Expecting' in str(e)", "match"),
        ("def f(x): return {}[x]",
         "try:\n    f('x')\n    assert False\nexcept KeyError as e:\n    assert e.args == ('x',)", "match"),
        ("def f(x): raise ValueError(object())",
         "try: f(1)\nexcept ValueError as e: assert 'object' in str(e)", "match"),
        ("class Bad(Exception):\n    def __str__(self): return 1 / 0\ndef f(x): raise Bad", "assert f(1)", "crash"),
        # Data of other types of Python's, equal to what they are equal to, and iterators and arrays, which have items.
        ("def f(x): return range(x)",
         "assert list(f(3)) == [0, 1, 2] and f(3) == range(3) and len(f(3)) == 3", "match"),
        ("def f(x): return range(x)", "assert f(3) == [0, 1, 2]", "mismatch"),
        ("from collections import deque\ndef f(x): return deque(x)",
         "assert list(f([1])) == [1] == [*f([1])]", "match"),
        ("from collections import deque\ndef f(x): return deque(x)", "assert f([1]) == [1]", "mismatch"),
        ("def f(x): x.popleft(); x.append(3)",
         "from collections import deque\nx = deque([1, 2])\nf(x)\nassert list(x) == [2, 3]", "match"),
        ("def f(x): return x.keys()", "assert set(f({1: 2})) == {1} == f({1: 2})", "match"),
        ("def f(x): return x.values()", "assert list(f({1: 2, 3: 2})) == [2, 2]", "match"),
        ("def f(x): return x.items()", "assert dict(f({1: [2]})) == {1: [2]}", "match"),
        ("def f(x): return x.keys()", "assert f({1: 2}) == [1]", "mismatch"),
        ("from decimal import Decimal\ndef f(x): return Decimal(x) * 2", "assert f(2) == 4", "match"),
        ("from decimal import Decimal\ndef f(x): return Decimal('0.1')", "assert f(2) == 0.1", "mismatch"),
        ("from fractions import Fraction as F\nclass E(F):\n    __eq__ = lambda s, o: True\ndef f(x): return E(x, 2)",
         "assert f(2) == 1\nassert f(3) == 1", "mismatch"),
        ("def f(x): return map(str, x)", "assert list(f([1, 2])) == ['1', '2']", "match"),
        ("def f(x): return map(str, x)", "assert f([1, 2]) == ['1', '2']", "unproxied"),
        ("def f(x):\n    yield from x", "g = f([1, 2])\nassert next(g) == 1 and list(g) == [2]", "match"),
        ("def f(x):\n    yield from x", "assert list(f(f([1, 2]))) == [1, 2]", "match"),
        ("def f(x):\n    while True: yield x", "assert next(f(1)) == 1", "unproxied"),
        ("import itertools\ndef f(x): return itertools.repeat(object(), x)",
         "assert len(list(f(1))) == 1", "unproxied"),
        ("import numpy as np\ndef f(x): return np.array(x)",
         "y = f([1, 2])\nassert list(y) == [*y] == [1, 2]", "match"),
        ("import numpy as np\ndef f(x): return np.array([])", "assert (f(1) == 1).all()", "unproxied"),
        # The answer's own objects: built, changed and handed back, never compared.
        ("class N:\n    def __init__(self, v): self.v, self.next = v, None\n"
         "def f(n): return n.v + (f(n.next) if n.next else 0)",
         "a = N(1)\na.next = N(2)\na.next.next = N(3)\nassert f(a) == 6 and a.v == 1 and a.next.v == 2", "match"),
        ("class S:\n    def __init__(self): self.all = []\n"
         "    def push(self, x): self.all.append(x)\n    def pop(self): return self.all.pop()",
         "s = S()\ns.push(1)\ns.push(2)\nassert s.pop() == 2\nassert s.pop() == 1", "match"),
        ("class E:\n    def __eq__(self, o): return True\ndef f(x): return E()", "assert f(0) == 0", "unproxied"),
        ("class E:\n    def __eq__(self, o): return True\ndef f(x): return [E()]", "assert f(0) == [0]", "unproxied"),
        ("class E:\n    def __sub__(self, o): return 0\ndef f(x): return E()", "assert f(0) - 3 < 1", "unproxied"),
        # Calls that depend on results, and a name that is also Python's.
        ("def f(x): return x + 1", "y = 0\nfor _ in range(4):\n    y = f(y)\nassert y == 4", "match"),
        ("def f(x): return x + 1", "y = 0\nfor _ in range(20):\n    y = f(y)\nassert y == 20", "match"),
        ("def f(x): return x + 1", "y = 0\nfor _ in range(20):\n    y = f(y)\nassert y == 21", "mismatch"),
        ("def f(x): return [x] * x", "n = 0\nfor y in f(3):\n    n += f(y)[0]\nassert n == 9", "match"),
        ("def f(x): return x.upper()", "assert f('a').lower() == 'a'\nassert f('b').lower() == 'b'", "match"),
        ("def sum(a, b): return a * b", "assert sum(2, 3) == 6", "match"),
        ("def set(x): return 0\ndef f(x): return x", "assert set(f([1])) == set([2])", "mismatch"),
        ("import random\ndef f(x): return random.random()", "assert f(f(1)) >= 0", "unproxied"),
        ("def f(x): return x", "import random\nassert f(random.random()) >= 0\nassert math.pi > f(3)", "match"),
        ("def f(x): print('x' * 10**6); return input", "assert f(0) == 0", "unproxied"),
        ("if __name__ == '__main__': input()\ndef f(x): return x", "assert f(0) == 0", "match"),
        ("import os\ndef f(x): os.write(1, b'noise'); return x", "assert f(0) == 0", "match"),
        # What stands below the functions.
        ("def f(x): return x\ns = input()\nprint(f(s))", "assert f(0) == 0", "match"),
        ("s = input()\ndef f(x): return x", "assert f(0) == 0", "crash"),
        ("def f(x): return x\nraise SystemExit", "assert f(0) == 0", "mismatch"),
    ],
)  # fmt: skip
def test_what_tests_see_of_an_answer(program, tests, why):
    assert graded(program, tests, timeout_s=2).why == why


@boxed
def test_helpers_of_the_tests_are_those_of_the_prompt():
    """HumanEval 38: the test encodes with a function that the prompt defines, and the answer could define another."""
    prompt = "def helper(x):\n    return x + 1\n\ndef undo(x):\n    '''Undo helper.'''\n"
    tests = {"test": "def check(c):\n    assert c(helper(3)) == 3\n", "entry_point": "undo", "prompt": prompt}
    verdicts = grade_many(
        [ask(tests)] * 3,
        [
            "    return x - 1\n",
            "```python\ndef helper(x):\n    return x\n\ndef undo(x):\n    return x\n```",
            "```python\nclass Any:\n    __eq__ = lambda s, o: True\ndef undo(x):\n    return Any()\n```",
        ],
    )
    assert [v.why for v in verdicts] == ["match", "mismatch", "unproxied"]


@boxed
def test_calls_are_compared_as_json():
    calls = {"entry_point": "f", "calls": [{"args": [1], "expect": [1, 2.0]}, {"args": [2], "expect": True}]}
    programs = {
        "class Solution:\n    n = 0\n    def f(self, x):\n"
        "        self.n += 1\n        return (1, 2) if self.n == 1 else True":
            "match",
        "def f(x): return [1, 2] if x == 1 else 1": "mismatch",
        "def f(x): return [True, 2] if x == 1 else True": "mismatch",
        "def f(x): return [1, 2, 3] if x == 1 else True": "mismatch",
        "class Solution:\n    def g(self, x): return True": "crash",
    }  # fmt: skip
    verdicts = grade_many([ask(calls)] * len(programs), list(programs))
    assert [v.why for v in verdicts] == list(programs.values())


@boxed
def test_nothing_of_the_tests_but_their_calls_enters_the_box_of_the_answer():
    seen = []

    def spy(source, stdin, limits):
        seen.append((source, stdin))
        return run_code(source, stdin, limits)

    secret = "5170943"
    tests = {"test_list": [f"assert f(2) == {secret}  # never shown"]}
    assert code(ask(tests), f"```python\ndef f(x): return {secret[::-1]}[::-1]\n```", spy).why == "crash"
    answers = [(source, stdin) for source, stdin in seen if "serve(" in source.rpartition("\n\n\n")[2]]
    assert len(answers) == 1
    assert secret not in answers[0][0] + answers[0][1]
    assert "never shown" not in answers[0][0]
    assert json.loads(answers[0][1]) == [{"name": "f"}, [2], {"dict": []}]
    before = len(seen)
    code(ask(tests), "```python\ndef f(x): return 1\n```", spy)
    assert len(seen) == before + 2, "the calls of the tests are known: one box for the answer, one for the tests"


def test_a_program_that_does_not_reply_to_all_calls_has_not_passed():
    """Whatever runs the boxes: an answer's box that ends well with too few, too many or unreadable replies fails."""
    tests = {"test_list": ["assert f(2) == 4", "assert f(3) == 9"]}
    good = ['["value", 4, []]', '["value", 9, []]']
    wrong = (
        [], good[:1], good * 2, [good[0], "x"], [good[0], "9"], [good[0], '["value", {"int": 9}, []]'],
        [good[0], '["value", 9]'], [good[0], '["other", {"ref": 0}, []]'], [good[0], '{"value": 9}'],
        [good[0], '["value", NaN, []]'], [good[0], '["value", 9.0, []]'], [good[0], '["error", [0, 1], []]'],
    )  # fmt: skip
    for replies, why in ((good, {"match"}), *((w, {"mismatch", "crash"}) for w in wrong)):

        def run(source, stdin, limits, replies=replies):
            if "\nserve(" in source[-2000:].rpartition("\n\n\n")[2]:
                return Ran("\n".join(replies) + "\n", "", "ok", 0, 0.1)
            return run_here(source, stdin)

        assert code(ask(tests), "```python\ndef f(x): return x\n```", run).why in why, replies


def run_here(source, stdin):
    """The tests' own program, which is trusted, without a box."""
    import subprocess
    import sys

    ran = subprocess.run(
        [sys.executable, "-c", source], input=stdin, text=True, capture_output=True, env={"PYTHONHASHSEED": "0"}
    )
    assert ran.returncode == 0, ran.stderr
    return Ran(ran.stdout, ran.stderr, "ok", 0, 0.1)


VIEWS = type({}.keys()) | type({}.values()) | type({}.items())


def values(rng, depth=3):
    """Random plain data; bools beside equal ints and floats, so that a lost type shows."""
    leaf = [
        None, True, False, 0, 1, -(2**70), 10**50, 0.0, -0.0, 1.0, 0.1, math.inf, 1e-320, "", "\ud800é\n", b"\x00\xff",
        1j, bytearray(b"a"), int, list, (), frozenset({1, "a"}), range(1, 9, 2), Decimal("1.10"), Fraction(1, 3),
    ]  # fmt: skip
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(leaf)
    inner = [values(rng, depth - 1) for _ in range(rng.randrange(4))]
    keys = [x for x in inner if not isinstance(x, list | dict | set | bytearray | tuple | deque | VIEWS)]
    pairs = dict(zip(keys, inner, strict=False))
    return rng.choice(
        [inner, tuple(inner), pairs, set(keys), deque(inner), pairs.keys(), pairs.values(), pairs.items()]
    )


def canonical(value):
    """Type and content of plain data as text; the members of a set are sorted, whose order hangs on the hash seed."""
    if isinstance(value, dict):
        content, kind = [(canonical(k), canonical(v)) for k, v in value.items()], "dict"
    elif isinstance(value, list | tuple | set | frozenset | deque | VIEWS):
        content, kind = [canonical(x) for x in value], type(value).__name__
        content = sorted(content) if isinstance(value, set | frozenset) else content
    else:
        content, kind = value, type(value).__name__
    return f"{kind} {content!r}"


def test_data_is_the_same_after_packing_and_unpacking():
    rng = random.Random(1)
    for _ in range(2000):
        value = values(rng)
        text = json.dumps(packed.pack(value))
        assert canonical(packed.unpack(json.loads(text))) == canonical(value)
    nan = packed.unpack(json.loads(json.dumps(packed.pack(math.nan))))
    assert isinstance(nan, float)
    assert nan != nan


def test_a_subclass_is_sent_as_its_base_and_other_objects_are_refused():
    class Sly(int):
        __eq__ = __ne__ = lambda self, other: True
        __hash__ = int.__hash__

    class Text(str):
        __eq__ = lambda self, other: True  # noqa: E731
        __hash__ = str.__hash__

    back = packed.unpack(json.loads(json.dumps(packed.pack([Sly(3), Text("a"), {Text("k"): Sly(4)}]))))
    assert canonical(back) == canonical([3, "a", {"k": 4}])
    for other in (object(), iter([]), len, Sly, lambda: 0, [object()], {1: object()}, json):
        with pytest.raises(TypeError, match="not plain data"):
            packed.pack(other)
    deep: list = []
    for _ in range(packed.DEPTH):
        deep = [deep, (1,)]
    with pytest.raises(TypeError, match="deeply"):
        packed.pack(deep)


@pytest.mark.parametrize(
    "text",
    [
        '{"ref": 0}', '{"name": "f"}', '{"float": "x"}', '{"float": 1}', "1.5", "NaN", "Infinity", '{"tuple": "ab"}',
        '{"set": [[]]}', '{"dict": [[1]]}', '{"dict": {"a": 1}}', '{"bytes": "0"}', '{"bytes": [1]}', "{}",
        '{"type": "len"}', '{"range": [0.5]}', '{"range": "ab"}', '{"keys": [[]]}', '{"keys": 1}', '{"items": [1]}',
        '{"Decimal": "x"}', '{"Decimal": 1}', '{"Fraction": "1/0"}', '{"deque": "ab"}', '{"iterator": []}',
        '{"tuple": [1], "set": [1]}', '{"complex": ["0x0p0"]}', '{"type": "Remote"}', '{"list": [1]}',
        "[" * 101 + "]" * 101,
        '{"tuple": [' * 150 + "]}" * 150,
    ],
)  # fmt: skip
def test_what_pack_does_not_write_is_not_read(text):
    with pytest.raises((ValueError, TypeError, AttributeError, ArithmeticError)):
        print(packed.unpack(json.loads(text)))


NUMPY = """
import numpy as np

def is_floats(x):
    if isinstance(x, np.ndarray):
        return x.dtype == np.float64 or x.dtype == np.float32
    return isinstance(x, float)

def assertion(out, exp, atol):
    exact_match = out == exp
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if not exact_match and atol != 0:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert exact_match

def ref_func(xs):
    return sum(xs) / len(xs)

def check(candidate):
    for inputs, expected in zip([[[1.0, 2.0]], [[3, 4, 5]], [[0.1] * 7]], [1.5, 4.0, 0.1]):
        assertion(candidate(*inputs), expected, 0)
        assertion(candidate(*inputs), ref_func(*inputs), 0)
"""  # the form of HumanEval+ and MBPP+


@boxed
def test_tests_that_compare_with_numpy_grade_and_are_not_fooled():
    answers = {
        "def mean(xs): return sum(xs) / len(xs)": "match",
        "import numpy as np\ndef mean(xs): return np.mean(xs)": "match",
        "def mean(xs): return sum(xs) / len(xs) + 1e-3": "mismatch",
        "import numpy as np\ndef mean(xs): return np.int64(4)": "mismatch",
        "import numpy as np\nnp.allclose = lambda *a, **k: True\ndef mean(xs): return 1.0": "mismatch",
        "class E:\n    __eq__ = lambda s, o: True\ndef mean(xs): return E()": "unproxied",
        "from numpy import float64 as F\nclass E(F):\n    __eq__ = lambda *a: 1\ndef mean(x): return E()": "mismatch",
    }
    query = ask({"test": NUMPY, "entry_point": "mean", "prompt": "def mean(xs):\n    '''Mean.'''\n"})
    verdicts = grade_many([query] * len(answers), [f"```python\n{a}\n```" for a in answers], workers=2)
    assert [v.why for v in verdicts] == list(answers.values())


@boxed
@pytest.mark.parametrize("data", ["humaneval", "mbpp"])
def test_some_published_solutions_pass(datasets, data):
    if data == "humaneval":
        with gzip.open(datasets / "HumanEval.jsonl.gz", "rt") as f:
            rows = [json.loads(line) for line in f]
        # Those whose tests call helpers of the prompt, draw lots, or have long inputs.
        rows = [r for r in rows if int(r["task_id"].split("/")[1]) in (1, 32, 33, 38, 50, 53, 148, 162)]
        tests = [{k: r[k] for k in ("test", "entry_point", "prompt")} for r in rows]
        answers = [r["prompt"] + r["canonical_solution"] for r in rows]
    else:
        rows = [json.loads(x) for x in (datasets / "mbpp.jsonl").read_text().splitlines()]
        # Those whose tests build trees, pass a type, need a module, or name the function like one of Python's.
        rows = [r for r in rows if r["task_id"] in (126, 367, 533, 596, 601, 798, 927)]
        tests = [{k: r[k] for k in ("test_list", "test_setup_code")} for r in rows]
        answers = [r["code"] for r in rows]
    verdicts = grade_many(list(map(ask, tests)), [f"```python\n{a}\n```" for a in answers], workers=2)
    assert [v.why for v in verdicts] == ["match"] * len(rows)
