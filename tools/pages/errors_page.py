"""Write docs/errors.md, every message that ends a run, from the places in the source that make one.

python tools/pages/errors_page.py            write it
python tools/pages/errors_page.py --check    exit with 1 when it is not current

A message is the first argument of a call of a class of `onnxprune/errors.py`. What an f-string puts in is shown by the
name of what it puts in: `input <name> must be above 0`. `KINDS` in error_kinds.py says what to do; a message that is of
no kind ends this script.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, TARGET = ROOT / "onnxprune", ROOT / "docs" / "errors.md"
sys.path.insert(0, str(ROOT))

from onnxprune import errors  # noqa: E402
from tools.pages.error_kinds import KINDS, Kind  # noqa: E402
from tools.pages.made import write_or_check  # noqa: E402
from tools.pages.markdown import table  # noqa: E402

HEAD = """# Errors

Every message that onnxprune ends with on purpose, and what to do. Written by `tools/pages/errors_page.py` from the
sources; `<words>` stand for what a message names: a file, a node, a number. On the command line a message is one line
on stderr behind `onnxprune: `, and nothing is left half written; in Python it is the text of the exception. Options are
named as in Python: `round_to` is `--round-to`.

| exit code | exceptions | meaning |
| --- | --- | --- |
| 1 | `VerificationError` | a proof or a bound was missed; nothing was written |
| 2 | `InputError`, and its kinds `ModelError`, `DataError`, `OptionError` | the file, the samples or an option |
| 3 | `NothingToPrune` | no unit can go |
| 4 | `CutError`, and whatever nobody foresaw | a fault of onnxprune: please report it, with what `--debug` shows |

Search this page for words of the message that are no name: `is no tensor`, `has no effect`. What the command line
itself refuses (an unknown option or command, a value of the wrong type) is exit code 2 with the usage and what is near;
`onnxprune COMMAND --help` lists what there is.
"""


@dataclass(frozen=True, order=True)
class Message:
    """A message in the source."""

    text: str
    error: str  # the class that it is raised as
    module: str  # path in the package, without its suffix

    @property
    def exit_code(self) -> int:
        """What the command line returns."""
        return int(getattr(errors, self.error).exit_code)


def error_names() -> frozenset[str]:
    """Return the names of all classes of errors for users."""
    classes = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    return frozenset(name for name, value in classes.items() if issubclass(value, errors.OnnxpruneError))


@dataclass(frozen=True)
class Module:
    """A module of the package, with what it takes to spell its messages out."""

    path: Path

    @property
    def name(self) -> str:
        """Path in the package, without its suffix."""
        return self.path.relative_to(PACKAGE).with_suffix("").as_posix()

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @cached_property
    def imported(self) -> list[tuple[Module, set[str]]]:
        """The modules of the package that it imports from, and the names that it takes."""
        nodes = [
            n for n in self.tree.body if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("onnxprune.")
        ]
        paths = [ROOT.joinpath(*str(node.module).split(".")).with_suffix(".py") for node in nodes]
        pairs = zip(paths, nodes, strict=True)
        return [(Module(path), {alias.name for alias in node.names}) for path, node in pairs if path.is_file()]

    @cached_property
    def constants(self) -> dict[str, ast.expr]:
        """What names at its top stand for."""
        nodes = [node for node in self.tree.body if isinstance(node, ast.Assign)]
        return {target.id: node.value for node in nodes for target in node.targets if isinstance(target, ast.Name)}

    @cached_property
    def functions(self) -> dict[str, ast.FunctionDef]:
        """Its functions, by name."""
        return {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)}

    def homes(self, name: str) -> list[Module]:
        """Return the modules in which a name may stand for something: its own, and the one that it is imported from."""
        return [self, *(module for module, names in self.imported if name in names)]

    def messages(self, names: frozenset[str]) -> Iterator[Message]:
        """Yield its messages; the same one may come twice."""
        for function in self.functions.values():
            scope = Scope(assigned(function))
            for node in ast.walk(function):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id in names
                    and node.args
                ):
                    for text in self.spelled(node.args[0], scope):
                        yield Message(" ".join(text.split()), node.func.id, self.name)

    def spelled(self, value: ast.expr, scope: Scope) -> list[str]:
        """Return the texts that an expression may be; what a run alone knows has a name in angle brackets."""
        return self.known(value, scope) or [f"<{named(value)}>"]

    def known(self, value: ast.expr, scope: Scope) -> list[str]:
        """Return the texts that an expression may be as far as the source tells them; none where it tells nothing."""
        if isinstance(value, ast.Constant):
            return [str(value.value)]
        if isinstance(value, ast.FormattedValue):
            return self.known(value.value, scope) or [f"<{named(value.value)}>"]
        if isinstance(value, ast.JoinedStr):
            return self.joined(value.values, scope)
        if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
            sides = [value.left, value.right]
            return self.joined(sides, scope) if any(map(is_text, sides)) else []
        if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Mult) and is_text(value.left):
            return ["", *self.known(value.left, scope)]  # text * condition
        if isinstance(value, ast.Starred):
            return ["", f"<{named(value)}>"]
        if isinstance(value, ast.IfExp):
            return self.one_of([value.body, value.orelse], scope)
        if isinstance(value, ast.Name):
            return self.known_name(value.id, scope)
        return self.known_call(value, scope) if isinstance(value, ast.Call) else []

    def joined(self, parts: Sequence[ast.expr], scope: Scope) -> list[str]:
        """Return the texts that several expressions may be, one behind the other."""
        return ["".join(each) for each in itertools.product(*(self.spelled(part, scope) for part in parts))]

    def one_of(self, values: Sequence[ast.expr], scope: Scope) -> list[str]:
        """Return the texts that any of some expressions may be; none where the source does not tell all of them."""
        texts = [self.known(each, scope) for each in values if not is_none(each)]
        return list(itertools.chain(*texts)) if all(texts) else []

    def known_name(self, name: str, scope: Scope) -> list[str]:
        """Return the texts that a name stands for: those that its function gives it, or a constant."""
        if name in scope.open:
            return []
        if name in scope.local:
            return self.one_of(scope.local[name], scope.within(name))
        home = next((module for module in self.homes(name) if name in module.constants), None)
        return [] if home is None else home.known(home.constants[name], Scope({}, scope.within(name).open))

    def known_call(self, call: ast.Call, scope: Scope) -> list[str]:
        """Return the texts that a call returns: that of a function of the package, or `join` of a list."""
        items = call.args[0] if call.args else None
        if isinstance(items, ast.List) and isinstance(call.func, ast.Attribute) and call.func.attr == "join":
            separator = self.spelled(call.func.value, scope)[0]
            parts = itertools.product(*(self.spelled(item, scope) for item in items.elts))
            return [separator.join(filter(None, each)) for each in parts]
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        home = next((module for module in self.homes(name) if name in module.functions), None)
        if home is None or name in scope.open:
            return []
        function = home.functions[name]
        returned = [node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node.value]
        return home.one_of(returned, Scope(assigned(function), scope.within(name).open))


@dataclass(frozen=True)
class Scope:
    """Where an expression stands."""

    local: Mapping[str, list[ast.expr]]  # what the names of the function around it are given
    open: frozenset[str] = frozenset()  # names that are being spelled out: one that stands for itself has no end

    def within(self, name: str) -> Scope:
        """Return the same place while a name is spelled out."""
        return Scope(self.local, self.open | {name})


def is_text(value: ast.expr) -> bool:
    """Return whether an expression is a text as it stands there."""
    return isinstance(value, ast.JoinedStr) or (isinstance(value, ast.Constant) and isinstance(value.value, str))


def is_none(value: ast.expr) -> bool:
    """Return whether an expression is None, which stands for no message."""
    return isinstance(value, ast.Constant) and value.value is None


def assigned(function: ast.FunctionDef) -> dict[str, list[ast.expr]]:
    """Return what the names of a function are given in it; by other means than `=`, nothing that is known."""
    given: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            given.setdefault(node.targets[0].id, []).append(node.value)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            given.setdefault(node.id, [])
    return given


def named(value: ast.expr) -> str:
    """Return a name for the value of an expression: the last word of it that says what it is.

    >>> named(ast.parse("', '.join(map(str, self.missing))", mode="eval").body)
    'missing'
    >>> named(ast.parse("len(samples)", mode="eval").body)
    'number of samples'
    """
    if isinstance(value, ast.Name):
        return value.id.strip("_").replace("_", " ").lower()
    if isinstance(value, ast.Attribute) and value.attr == "__name__":
        return "type"
    if isinstance(value, ast.Attribute):
        return value.attr.strip("_").replace("_", " ")
    if isinstance(value, ast.Subscript | ast.Starred):
        return named(value.value)
    if isinstance(value, ast.GeneratorExp | ast.ListComp):
        return named(value.generators[0].iter)
    if isinstance(value, ast.IfExp):
        return named(value.body)
    if isinstance(value, ast.BoolOp):
        return named(value.values[0])
    if isinstance(value, ast.BinOp):
        return named(value.left)
    if isinstance(value, ast.Call):
        return named_call(value)
    return "..."


def named_call(call: ast.Call) -> str:
    """Return a name for what a call returns: that of its last argument, of its object, or its own."""
    function = named(call.func)
    if function == "len" and call.args:
        return f"number of {named(call.args[0])}"
    if call.args and (name := named(call.args[-1])) != "...":
        return name
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    return named(owner) if owner is not None and named(owner) != "..." else function


def all_messages() -> list[Message]:
    """Return all messages of the package; those that are nothing but another error's text are left out."""
    names = error_names()
    found = {each for path in sorted(PACKAGE.rglob("*.py")) for each in Module(path).messages(names)}
    return sorted(each for each in found if re.search(r"[a-z]{2}", re.sub(r"<[^>]*>", "", each.text)))


def by_kind(messages: list[Message]) -> dict[Kind, list[Message]]:
    """Return the messages of each kind: the first one that takes it."""
    sorted_in: dict[Kind, list[Message]] = {kind: [] for kind in KINDS}
    for each in messages:
        kind = next((kind for kind in KINDS if kind.takes(each.module, each.error, each.text)), None)
        if kind is None:
            raise SystemExit(
                f"{each.module}: {each.text!r} is of no kind: add the module to one in tools/pages/error_kinds.py"
            )
        sorted_in[kind].append(each)
    empty = [kind.title for kind, those in sorted_in.items() if not those]
    if empty:
        raise SystemExit(f"kinds without a message: {', '.join(empty)}; remove them from tools/pages/error_kinds.py")
    return sorted_in


def text() -> str:
    """Return the page."""
    parts = [HEAD]
    for kind, messages in by_kind(all_messages()).items():
        rows = sorted({(code(each.text), f"`{each.error}`", each.exit_code) for each in messages})
        parts.append(
            "\n".join([f"## {kind.title}", "", kind.hint, "", *table(["message", "exception", "code"], rows), ""])
        )
    return "\n".join(parts)


def code(message: str) -> str:
    """Return a message as code in a cell of a table."""
    return f"`{message.replace('`', chr(39)).replace('|', '¦')}`"


def main() -> int:
    """Write or check the page."""
    return write_or_check("tools/pages/errors_page.py", __doc__, lambda: {TARGET: text()})


if __name__ == "__main__":
    sys.exit(main())
