"""The table: ops whose relation between axes is one line.

The notation is explained in `dependency.pattern`. A letter after the line names the attribute of the op that states
its size; after a cut the new size is written back to it.
"""

from __future__ import annotations

from onnxprune.dependency.rules.registry import line, rule
from onnxprune.dependency.rules.site import Site
from onnxprune.errors import CannotUnify

# fmt: off
line("Conv",                  "n (g i) *s, (g o) i *k, (g o)?  -> n (g o) *t",   "n g o i *t *k", channels=1, g="group")
line("ConvTranspose",         "n (g i) *s, (g i) o *k, (g o)?  -> n (g o) *t",   "n g o i *s *k", channels=1, g="group")
line("LRN",                   "n c~ *s                         -> n c *s")
line("GlobalAveragePool",     "n c *s                          -> n c *t")
line("GlobalMaxPool",         "n c *s                          -> n c *t")
line("GlobalLpPool",          "n c *s                          -> n c *t")
line("AveragePool",           "n c *s                          -> n c *t")
line("LpPool",                "n c *s                          -> n c *t")
line("SpaceToDepth",          "n c (h p!) (w q!)               -> n (p q c) h w", p="blocksize", q="blocksize")
line("GridSample",            "n c *s, n *t r                  -> n c *t")
line("ImageScaler",           "n c! *s                         -> n c *s")
line("Crop",                  "n c *s                          -> n c *t")
line("Dropout",               "*s, _?, _?                      -> *s, *s?")
line("Clip",                  "*s, _?, _?                      -> *s")
line("Trilu",                 "*b m! n!, _?                    -> *b m n")
line("EyeLike",               "m! n!                           -> m n")
line("Shape",                 "*s                              -> t")
line("Size",                  "*s                              -> ")
line("NonZero",               "*s                              -> r t")
line("Range",                 "_, _, _                         -> t")
# fmt: on


@rule("BatchNormalization")
def batch_normalization(x: Site) -> None:
    """N c *s, c, c, c, c -> n c *s; in training n~ c *s~, ... -> n c *s, c, c: normalised over all but the channels.

    Old versions gave up to five outputs, and with ``spatial=0`` each position of a channel has numbers of its own.
    """
    mixed = "~" if x.attr("training_mode", 0) or len(x.node.outputs) > 1 else ""
    each = "c" if x.rank(1) == 1 else "c *s"
    x.match(f"n{mixed} c *s{mixed}, {each}, {each}, {each}, {each} -> n c *s, {each}, {each}, {each}, {each}")


@rule("MaxPool")
def max_pool(x: Site) -> None:
    """N c *s -> n c *t, n c *t; the second are positions in the whole tensor, which lock images and channels."""
    axes = x.match("n c *s -> n c *t, n c *t")
    if x.is_read(1):
        for name in "nc":
            x.lock(axes[name], "its indices are counted over all channels")


@rule("MatMul")
def matmul(x: Site) -> None:
    """*b m k, *b k n -> *b m n (a vector has no m, or no n)."""
    left = "k" if x.rank(0) == 1 else "*b m k"
    right = "k" if x.rank(1) == 1 else "*b k n"
    batch = "*b" * (x.rank(0) > 1 or x.rank(1) > 1)
    kept = f"{batch} {'m' * (x.rank(0) > 1)} {'n' * (x.rank(1) > 1)}"
    x.match(f"{left}, {right} -> {kept}", macs=f"{kept} k")


@rule("Gemm")
def gemm(x: Site) -> None:
    """M k, k n -> m n, transposed by transA and transB; the third input is broadcast to the output."""
    left = "k m" if x.attr("transA", 0) else "m k"
    right = "n k" if x.attr("transB", 0) else "k n"
    if not x.has(2):
        x.match(f"{left}, {right}, _? -> m n", macs="m k n")
        return
    bias = [letter if axis.size > 1 else "1" for letter, axis in zip("mn"[2 - x.rank(2) :], x.axes(2), strict=True)]
    x.match(f"{left}, {right}, {' '.join(bias)} -> m n", macs="m k n")
    x.add(2)


@rule("CastLike")
def cast_like(x: Site) -> None:
    """*s, *t -> *s; of the second input the type alone is read, so that its axes may lose units."""
    x.axes(1)
    x.output(x.axes(0))


@rule("DepthToSpace")
def depth_to_space(x: Site) -> None:
    """N (p q c) h w -> n c (h p) (w q); in mode CRD (c p q)."""
    channels = "c p! q!" if x.attr("mode", "DCR") == "CRD" else "p! q! c"
    size = x.attr("blocksize")
    x.match(f"n ({channels}) h w -> n c (h p) (w q)", sizes={"p": size, "q": size})


@rule("GroupNormalization")
def group_normalization(x: Site) -> None:
    """N (g c~) *s, (g c), (g c) -> n (g c) *s; before opset 21 scale and bias are per group."""
    scale = "(g c)" if x.node.version >= 21 else "g"
    x.match(f"n (g c~) *s~, {scale}, {scale} -> n (g c) *s", sizes={"g": "num_groups"})
    x.compensate(0.5, slot=1, epsilon=1e-5)


@rule("InstanceNormalization")
def instance_normalization(x: Site) -> None:
    """N c *s~, c, c -> n c *s."""
    x.match("n c *s~, c, c -> n c *s")
    x.compensate(0.5, slot=1, epsilon=1e-5)


@rule("LayerNormalization", "RMSNormalization")
def layer_normalization(x: Site) -> None:
    """*b *c~, *c, *c -> *b *c, normalised over the axes from `axis` on; mean and deviation have size 1 there."""
    axes = x.axes(0)
    first = x.dim(x.attr("axis", -1), len(axes))
    for dim in range(first, len(axes)):
        if x.node.op == "LayerNormalization":
            x.mix(axes[dim])
        else:  # without a centre, units at zero add nothing
            x.average(0, dim, "normalises over")
    if any(map(x.is_read, range(1, len(x.node.outputs)))):  # the deviation would be that of fewer units
        for axis in axes[first:]:
            x.lock(axis, f"{x.node.op} gives its mean or deviation as well")
    x.compensate(0.5, slot=1, epsilon=1e-5)
    for slot in range(1, len(x.node.inputs)):
        if x.has(slot):
            x.broadcast(axes, x.axes(slot))
    x.output(axes)
    for index in (1, 2):
        if len(x.node.outputs) > index and x.node.outputs[index]:
            x.output(x.broadcast(axes[:first] + tuple(x.made(d, index) for d in range(first, len(axes)))), index)


@rule("CumSum", "CumProd")
def cumulative(x: Site) -> None:
    """*s -> *s; along `axis` every index depends on those before it, so that it is locked."""
    axes, axis = x.axes(0), x.value(1)
    verb = "adds up" if x.node.op == "CumSum" else "multiplies"
    for dim in range(len(axes)) if axis is None else [x.dim(int(axis.item()), len(axes))]:
        x.lock(axes[dim], f"{x.node.op} {verb} along it")
    x.output(axes)


@rule("Einsum")
def einsum(x: Site) -> None:
    """The equation is the line."""
    equation = x.attr("equation").replace(" ", "")
    inputs, arrow, output = equation.partition("->")
    if not arrow:
        names = [c for c in sorted(set(inputs)) if c.isalpha() and inputs.count(c) == 1]
        output = ("..." if "..." in inputs else "") + "".join(names)
    operands = [_einsum_operand(operand) for operand in inputs.split(",")]
    result = _einsum_operand(output)
    names = list(dict.fromkeys(c for c in inputs if c.isalpha()))
    macs = " ".join(names + ["*batch"] * ("..." in inputs)) if len(operands) > 1 else ""
    x.match(f"{', '.join(operands)} -> {result}", macs=macs, sums=True)


def _einsum_operand(text: str) -> str:
    names = text.replace("...", "")
    if len(set(names)) < len(names):
        raise CannotUnify(f"Einsum takes a diagonal in '{text}'")
    return " ".join("*batch" if part == "." else part for part in text.replace("...", "."))
