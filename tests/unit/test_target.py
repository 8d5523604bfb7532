"""Targets: what loads, under which name, and how every mistake is told."""

import subprocess
import sys
from pathlib import Path

import pytest

from envmesh.build import build_digest, source_files
from envmesh.env import Declaration, Isolation, Recovery
from envmesh.target import TargetError, load, split_arguments, split_target, suggestion, with_spaces

COUNTDOWN = '''
import envmesh.env

class Countdown:
    """Counts down."""
    def __init__(self, start=3):
        self.start = start
    def reset(self, *, seed=None, options=None):
        self.left = self.start
        return self.left, {}
    def step(self, action):
        self.left -= 1
        return self.left, 0.0, self.left == 0, False, {}

@envmesh.env.environment(name="declared", recovery="replay", isolation="inline", version="7")
class Declared(Countdown):
    observation_space = {"type": "integer"}
    @staticmethod
    def tasks():
        return [envmesh.env.Task(id="a"), envmesh.env.Task(id="b")]

class OfAnInstance(Countdown):
    def tasks(self):
        return [envmesh.env.Task(id=str(self.start))]

class NeedsArguments(Countdown):
    def __init__(self, size, colour):
        super().__init__(size)

class NoStep:
    def reset(self, *, seed=None, options=None):
        return 0, {}
    def setp(self, action):
        return 0, 0.0, False, False, {}

class WithSpaces(Countdown):
    def __init__(self):
        super().__init__()
        self.action_space = {"type": "string"}
        self.closed = False
    def close(self):
        WithSpaces.closes = True

def make(start=5):
    return Countdown(start)

an_instance = Countdown()
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with modules, as an author has them: it is the working directory, and not on the path."""
    modules = {
        "countdown_here": COUNTDOWN,
        "breaks_here": "import os\n\nraise KeyError('no key')\n",
        "exits_here": "raise SystemExit('bye')\n",
        "misspelt_here": "def f(:\n",
        "lacks_here": "import a_module_that_is_not_there\n",
        "empty_here": "import json\n",
        "single_here": COUNTDOWN.partition("@envmesh")[0],
    }
    for name, text in modules.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in modules:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("countdown:Countdown", (None, "countdown:Countdown")),
        ("name=countdown:Countdown", ("name", "countdown:Countdown")),
        ("cartpole@1=gymnasium:CartPole-v1", ("cartpole@1", "gymnasium:CartPole-v1")),
        ("gymnasium:CartPole-v1?max_episode_steps=50", (None, "gymnasium:CartPole-v1?max_episode_steps=50")),
        ("c=gymnasium:CartPole-v1?a=1&b=2", ("c", "gymnasium:CartPole-v1?a=1&b=2")),
        (" a = b:C ", ("a", "b:C")),
    ],
)
def test_a_name_may_stand_before_a_target(text, split):
    assert split_target(text) == split


@pytest.mark.parametrize(
    "text", ["", "  ", "name=", "=countdown:Countdown", "na me=a:B", "a@b@c=a:B", "a@=a:B"]
)
def test_what_is_no_name_and_target_is_refused(text):
    with pytest.raises(TargetError):
        split_target(text)


def test_arguments_are_json_or_python_or_text():
    rest, arguments = split_arguments("x:Y?a=1&b=0.5&c=true&d=None&e=[1, 2]&f=plain&g=%26&h=(84,84)&i=&j='1'")
    assert rest == "x:Y"
    assert arguments == {
        "a": 1, "b": 0.5, "c": True, "d": None, "e": [1, 2], "f": "plain", "g": "&", "h": (84, 84), "i": "", "j": "1",
    }  # fmt: skip
    assert split_arguments("x?w=A&w=B&w=C")[1] == {"w": ["A", "B", "C"]}
    assert split_arguments("x?w=[1]&w=2")[1] == {"w": [[1], 2]}


@pytest.mark.parametrize("text", ["x:Y?", "x:Y?a", "x:Y?a=1&", "x:Y?1a=1", "x:Y?=1"])
def test_what_is_no_argument_is_refused(text):
    with pytest.raises(TargetError, match="key=value"):
        split_arguments(text)


def test_an_undeclared_class_gets_the_safe_choices(here):
    definition = load("countdown_here:Countdown")
    assert definition.name == definition.target == "countdown_here:Countdown"
    assert definition.declaration == Declaration()
    assert definition.declaration.recovery is Recovery.NONE
    assert definition.declaration.isolation is Isolation.PROCESS
    assert definition.declaration.worker_episodes == 1
    assert definition.tasks is None
    assert definition.factory().reset(seed=1) == (3, {})
    named = load("countdown_here:Countdown", name="mine@7")
    assert named.key == "mine@7"
    assert not named.declaration.declared, "a version says what it is called, not what may be done to it"


def test_a_declared_class_keeps_what_it_says_and_options_win(here):
    definition = load("countdown_here:Declared")
    assert definition.key == "declared@7"
    assert definition.declaration.observation_space == {"type": "integer"}
    assert [task.id for task in definition.tasks() or ()] == ["a", "b"]
    other = load("countdown_here:Declared", name="mine@9", recovery="none", slots=4, isolation=None)
    assert other.key == "mine@9"
    assert (other.declaration.recovery, other.declaration.slots) == (Recovery.NONE, 4)
    assert other.declaration.isolation is Isolation.INLINE


def test_options_of_the_command_line_are_a_declaration(here):
    assert load("countdown_here:Countdown", recovery="replay").declaration.declared
    assert not load("countdown_here:Countdown", recovery=None).declaration.declared


def test_functions_files_and_arguments_load_too(here):
    assert load("countdown_here:make").factory().start == 5
    assert load("countdown_here:Countdown?start=9").factory().start == 9
    assert load("countdown_here.py:Countdown").factory().start == 3
    assert load("single_here.py").factory().start == 3
    assert load("single_here.py?start=8").factory().start == 8
    (here / "within").mkdir()
    (here / "within" / "inner_here.py").write_text(COUNTDOWN)
    assert load("within/inner_here.py:Declared").key == "declared@7"
    sys.modules.pop("inner_here")


def test_spaces_and_tasks_may_need_an_instance(here):
    definition = load("countdown_here:WithSpaces")
    assert definition.declaration.action_space is None
    found = with_spaces(definition)
    assert found.declaration.action_space == {"type": "string"}
    assert found.declaration.observation_space is None
    assert definition.factory().closes
    assert [task.id for task in (load("countdown_here:OfAnInstance?start=4").tasks or list)()] == ["4"]


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("countdown", ["not a target", "module:Class"]),
        ("countdown_here", ["not a target", "Did you mean 'countdown_here.py'?"]),
        ("countdown_here:", ["names no class"]),
        ("countdwn_here:Countdown", ["no module 'countdwn_here'", "Did you mean 'countdown_here'?"]),
        ("countdown_here:Countdwn", ["has no 'Countdwn'", "Did you mean 'Countdown'?"]),
        ("countdown_here:Xyzzy", ["has no 'Xyzzy'", "Its environments: Countdown"]),
        ("countdown_here:Countdown.Inner", ["Countdown has no 'Inner'"]),
        ("countdown_here:an_instance", ["an object of type Countdown", "names a class"]),
        ("countdown_here:NoStep", ["no method step()", "Did you mean 'setp'?"]),
        ("countdown_here:NeedsArguments", ["needs size, colour", "NeedsArguments?size=…&colour=…"]),
        ("countdown_here:NeedsArguments?size=1", ["needs colour", "?size=…&colour=…"]),
        ("countdown_here:Countdown?strat=1", ["'strat' is no argument", "Did you mean 'start'?"]),
        ("countdown_here:Countdown?start", ["'start'", "is not key=value"]),
        ("breaks_here:X", ["could not be imported", "KeyError: 'no key'", "breaks_here.py, line 3"]),
        ("exits_here:X", ["could not be imported", "SystemExit: bye"]),
        ("misspelt_here:X", ["could not be imported", "SyntaxError", "misspelt_here.py, line 1"]),
        ("lacks_here:X", ["needs the module 'a_module_that_is_not_there'", "not installed"]),
        ("lacks_here.py:X", ["needs the module 'a_module_that_is_not_there'"]),
        ("countdown_here.Countdown:x", ["no module"]),
        ("empty_here.py", ["has no class with reset and step"]),
        ("countdown_here.py", ["environments (Countdown, Declared", "countdown_here.py:Countdown"]),
        ("countdon_here.py", ["there is no file", "Did you mean 'countdown_here.py'?"]),
        ("reasoninggym:chain_sum", ["no module 'reasoninggym'", "Did you mean 'reasoning_gym'?"]),
        ("gymnasium:", ["says nothing after the ':'"]),
        ("a b:C", ["not a target"]),
        ("", ["not a target"]),
    ],
)
def test_every_mistake_in_a_target_is_told(here, target, says):
    with pytest.raises(TargetError) as caught:
        load(target)
    for part in says:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "a b"}, "must be 1 to 100 characters"),
        ({"name": "a@"}, "version"),
        ({"name": "a@2", "version": "3"}, "give one of them"),
        ({"recovry": "none"}, "Did you mean 'recovery'?"),
        ({"recovery": "sometimes"}, "'none', 'replay', 'state'"),
        ({"slots": 0}, "slots must be a whole number"),
        ({"limits": {"step_seconds": 0}}, "step_seconds must be more than 0"),
        ({"limits": {"step": 1}}, "step"),
        ({"options": "start"}, "options must be a list of names, such as ['start']; got the text 'start'"),
        ({"agents": "ab"}, "agents must be a list of names"),
        ({"reward_components": "time"}, "reward_components must be a list of names"),
    ],
)
def test_every_mistake_in_an_option_is_told(here, arguments, says):
    with pytest.raises(TargetError, match=r".") as caught:
        load("countdown_here:Countdown", **arguments)
    assert says in str(caught.value)


def test_a_target_that_could_not_be_a_name_needs_one(here):
    target = "countdown_here:Countdown?start='x@y'"
    with pytest.raises(TargetError, match="cannot serve as a name"):
        load(target)
    assert load(target, name="fine").name == "fine"


def test_another_module_of_the_same_name_is_told_apart(here):
    (here / "json.py").write_text(COUNTDOWN)
    with pytest.raises(TargetError, match="another module named 'json'"):
        load("json.py:Countdown")


def test_suggestions_are_close_or_contain_the_word():
    assert suggestion("cartpol-v1", ["CartPole-v1", "Acrobot-v1"]) == " Did you mean 'CartPole-v1'?"
    assert suggestion("Resize", ["ResizeObservation", "Other"]) == " Did you mean 'ResizeObservation'?"
    assert suggestion("zzz", ["a", "b"]) == ""


def test_a_build_is_of_the_source_and_the_packages(here):
    first = load("countdown_here:Countdown").build
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert load("countdown_here:Declared").build == first
    (here / "countdown_here.py").write_text(COUNTDOWN + "\n# changed\n")
    assert build_digest("countdown_here") != first
    assert build_digest(distributions=["numpy"]) != build_digest(distributions=["xxhash"])
    assert build_digest(distributions=["no-such-package"]) == build_digest(distributions=["No_Such.Package"])
    assert build_digest(parts=["a", "b"]) == build_digest(parts=["b", "a"]) != build_digest(parts=["ab"])


def test_a_build_is_the_same_in_another_process(here):
    program = "from envmesh.target import load; print(load('countdown_here:Countdown').build)"
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert told == {load("countdown_here:Countdown").build}


def test_a_package_counts_with_all_its_files(here):
    (here / "package_here").mkdir()
    (here / "package_here" / "__init__.py").write_text("")
    (here / "package_here" / "inner.py").write_text(COUNTDOWN)
    load("package_here.inner:Countdown")
    root, files = source_files("package_here.inner")
    assert [file.relative_to(root) for file in files] == [
        Path("package_here/__init__.py"),
        Path("package_here/inner.py"),
    ]
    before = build_digest("package_here.inner")
    (here / "package_here" / "other.py").write_text("x = 1\n")
    assert build_digest("package_here.inner") != before
    for name in ("package_here", "package_here.inner"):
        sys.modules.pop(name)


def test_a_build_is_of_the_arguments_too(here):
    plain, short, shorter = (
        load(f"countdown_here:Countdown{query}").build for query in ("", "?start=2", "?start=1")
    )
    assert len({plain, short, shorter}) == 3


@pytest.fixture
def beside(here):
    """A file, the module that it imports, the package that this one imports, and a package that nobody imports."""
    (here / "maze_here.py").write_text("import tiles_here\n" + COUNTDOWN)
    (here / "tiles_here.py").write_text("from walls_here.brick import wall\nimport maze_here\n")
    for package in ("walls_here", "doors_here"):
        (here / package).mkdir()
        (here / package / "__init__.py").write_text("")
    (here / "walls_here" / "brick.py").write_text("wall = 1\n")
    yield here
    for name in ("maze_here", "tiles_here", "walls_here", "walls_here.brick"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("changed", ["tiles_here.py", "walls_here/brick.py", "walls_here/__init__.py"])
def test_a_build_is_of_the_modules_beside_it_that_it_imports(beside, changed):
    before = load("maze_here.py:Countdown").build
    (beside / "doors_here" / "__init__.py").write_text("door = 1\n")
    assert build_digest("maze_here") == before, "nothing imports it"
    with (beside / changed).open("a") as file:
        file.write("more = 1\n")
    assert build_digest("maze_here") != before


def test_a_build_of_what_is_installed_is_of_its_version_and_not_of_its_neighbours(here):
    installed = here / "site-packages"
    installed.mkdir()
    (installed / "maze_here.py").write_text("import tiles_here\n")
    (installed / "tiles_here.py").write_text("")
    sys.path.insert(0, str(installed))
    before = build_digest("maze_here")
    (installed / "tiles_here.py").write_text("more = 1\n")
    assert build_digest("maze_here") == before


def test_what_tools_leave_in_a_package_is_no_source(here):
    package = here / "edited_here"
    (package / ".venv").mkdir(parents=True)
    (package / ".venv" / "site.py").write_text("")
    (package / "__init__.py").write_text(COUNTDOWN)
    (package / ".#__init__.py").symlink_to("somebody@a-machine.1234:5678")  # the lock of an editor
    assert load("edited_here:Countdown").build
    assert [file.name for file in source_files("edited_here")[1]] == ["__init__.py"]
    sys.modules.pop("edited_here")


def test_a_module_without_source_has_a_build_too():
    assert source_files("math") == (Path(), ())
    assert len(build_digest("math")) == 16
