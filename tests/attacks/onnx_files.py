""".onnx: sound files, and such as no reader should believe. Fields: onnx.proto of the ONNX project.

The network of most of them is one Gemm and a Relu, 1-2.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from attacks.containers import f4
from attacks.kinds import Attack, folder, lazily, pipe
from attacks.protobuf import floating, integer, key, message, varint

FLOAT, INT64 = 1, 7


def tensor(
    name: str,
    dims: Sequence[int],
    raw: bytes | None,
    *,
    kind: int = FLOAT,
    more: bytes = b"",
) -> bytes:
    """A TensorProto."""
    content = b"".join(integer(1, n) for n in dims) + integer(2, kind) + message(8, name)
    return content + (b"" if raw is None else message(9, raw)) + more


def value(name: str, shape: Sequence[int | str] = ("n", 1), kind: int = FLOAT) -> bytes:
    """A ValueInfoProto."""
    dims = b"".join(
        message(1, integer(1, n) if isinstance(n, int) else message(2, n)) for n in shape
    )
    return message(1, name) + message(2, message(1, integer(1, kind) + message(2, dims)))


def node(
    kind: str, inputs: Sequence[str], outputs: Sequence[str], more: bytes = b"", name: str = ""
) -> bytes:
    """A NodeProto; `more`: attributes, a domain."""
    content = b"".join(message(1, each) for each in inputs)
    content += b"".join(message(2, each) for each in outputs)
    return content + (message(3, name) if name else b"") + message(4, kind) + more


def attribute(name: str, content: bytes, kind: int) -> bytes:
    """An AttributeProto as a field of a node."""
    return message(5, message(1, name) + content + integer(20, kind))


def number(name: str, n: int) -> bytes:
    return attribute(name, integer(3, n), 2)


def real(name: str, x: float) -> bytes:
    return attribute(name, floating(2, x), 1)


NODES = [
    node("Gemm", ["x", "w", "b"], ["z"], name="dense"),
    node("Relu", ["z"], ["y"], name="relu"),
]
TENSORS = [tensor("w", (1, 2), f4(0, 1)), tensor("b", (2,), f4(2, 3))]


def graph(
    nodes: Sequence[bytes] = NODES,
    tensors: Sequence[bytes] = TENSORS,
    inputs: Sequence[bytes] | None = None,
    outputs: Sequence[bytes] | None = None,
    more: bytes = b"",
) -> bytes:
    """A GraphProto."""
    content = b"".join(message(1, each) for each in nodes) + message(2, "g")
    content += b"".join(message(5, each) for each in tensors)
    content += b"".join(message(11, each) for each in [value("x")] if inputs is None)
    content += b"".join(message(11, each) for each in inputs or ())
    content += b"".join(message(12, each) for each in [value("y", ("n", 2))] if outputs is None)
    return content + b"".join(message(12, each) for each in outputs or ()) + more


def model(
    content: bytes | None = None, *, ir: int = 8, opset: int = 17, more: bytes = b""
) -> bytes:
    """A ModelProto; the graph comes last, so that no truncation leaves it whole."""
    head = integer(1, ir) + message(8, message(1, "") + integer(2, opset)) + more
    return head + message(7, graph() if content is None else content)


def with_tensor(name: str, dims: Sequence[int], raw: bytes | None, **rest: Any) -> bytes:
    """The sound file with another tensor in place of its weight or bias."""
    others = [TENSORS[1]] if name == "w" else [TENSORS[0]]
    return model(graph(tensors=[*others, tensor(name, dims, raw, **rest)]))


def with_nodes(*nodes: bytes, tensors: Sequence[bytes] = TENSORS) -> bytes:
    return model(graph(nodes, tensors))


def after_gemm(kind: str, more: bytes = b"", inputs: Sequence[str] = ("z",)) -> bytes:
    """The sound file with another activation."""
    return with_nodes(NODES[0], node(kind, inputs, ["y"], more))


def turned(times: int) -> bytes:
    """A constant of 1 MB, transposed and reshaped, so copied, again and again."""
    shapes = [
        tensor("wide", (2,), struct.pack("<2q", 1024, 256), kind=INT64),
        tensor("square", (2,), struct.pack("<2q", 512, 512), kind=INT64),
    ]
    nodes, at = [], "big"
    for i in range(times):
        nodes.append(node("Transpose", [at], [f"t{i}"]))
        nodes.append(node("Reshape", [f"t{i}", "square" if i % 2 else "wide"], [f"r{i}"]))
        at = f"r{i}"
    big = tensor("big", (512, 512), bytes(2**20))
    more = [node("MatMul", ["x", at], ["u"]), node("Relu", ["u"], ["y"])]
    inputs = [value("x", ("n", 512))]
    return model(graph([*nodes, *more], [big, *shapes], inputs, [value("y", ("n", 512))]))


def labelled(times: int, texts: bytes = b"") -> bytes:
    """Labels under `times` names, of one list of classes, or of a list of texts each."""
    nodes, outputs = [NODES[0], node("ArgMax", ["z"], ["i"], number("axis", 1))], []
    for i in range(times):
        if texts:
            nodes.append(node("Constant", [], [f"c{i}"], attribute("value_strings", texts, 8)))
        nodes.append(node("Gather", [f"c{i}" if texts else "c", "i"], [f"y{i}"]))
        outputs.append(value(f"y{i}", ("n",), INT64))
    classes = tensor("c", (500_000,), bytes(2_000_000), kind=6)
    return model(graph(nodes, TENSORS if texts else [*TENSORS, classes], outputs=outputs))


def named_by_one_text() -> bytes:
    """Labels that all are one long text, in 40 kB."""
    text = attribute("value_strings", message(9, "a" * 10_000), 8)
    nodes = [
        NODES[0],
        node("ArgMax", ["z"], ["i"], number("axis", 1)),
        node("Constant", [], ["text"], text),
        node("Gather", ["zeros", "i"], ["j"]),
        node("Gather", ["text", "j"], ["y"]),
    ]
    zeros = tensor("zeros", (30_000,), bytes(30_000), kind=3)
    return model(graph(nodes, [*TENSORS, zeros], outputs=[value("y", ("n",), 8)]))


def scaled(times: int) -> bytes:
    """A matrix of 65,536 weights, and as many products by two numbers behind it."""
    k = 2**15
    nodes, at = [node("MatMul", ["x", "wide"], ["m0"])], "m0"
    for i in range(1, times + 1):
        nodes.append(node("Mul", [at, "two"], [f"m{i}"]))
        at = f"m{i}"
    tensors = [tensor("wide", (k, 2), bytes(8 * k)), tensor("two", (2,), f4(1, 2))]
    nodes.append(node("Relu", [at], ["y"]))
    return model(graph(nodes, tensors, [value("x", ("n", k))]))


def external(**entries: str) -> bytes:
    """A weight whose bytes are elsewhere."""
    more = b"".join(message(13, message(1, k) + message(2, v)) for k, v in entries.items())
    return with_tensor("w", (1, 2), None, more=more + integer(14, 1))


def metadata(name: str, text: str) -> bytes:
    return message(14, message(1, name) + message(2, text))


def nested(depth: int) -> bytes:
    """A graph in an attribute of a node of a graph in an attribute, ..."""
    inner = graph([])
    for _ in range(depth):
        inner = graph([node("If", [], ["y"], attribute("then_branch", message(6, inner), 5))])
    return model(inner)


def chain(n: int) -> bytes:
    """n Tanhs one after the other: each a layer."""
    steps = [node("Tanh", [f"v{i}"], [f"v{i + 1}"]) for i in range(n)]
    last = node("Relu", [f"v{n}"], ["y"])
    return with_nodes(node("Gemm", ["x", "w", "b"], ["v0"]), *steps, last)


def of_formula(n_functions: int, kind: str, inputs: Sequence[str], times: int) -> bytes:
    """A sum of tanhs of cubics, as gelu's is one, and many more nodes of it and of constants."""
    nodes = [
        node("Gemm", ["x", "w", "b"], ["z"]),
        node("Mul", ["z", "z"], ["zz"]),
        node("Mul", ["zz", "z"], ["zzz"]),
    ]
    tensors = [tensor("w", (2, 1), f4(1, 2)), tensor("b", (1,), f4(0)), tensor("k", (), f4(1.5))]
    for i in range(n_functions):
        tensors += [tensor(f"c{i}", (), f4(0.0356774 * (i + 1)))]
        tensors += [tensor(f"d{i}", (), f4(0.7978845608 * (i + 1)))]
        nodes += [
            node("Mul", ["zzz", f"c{i}"], [f"e{i}"]),
            node("Mul", ["z", f"d{i}"], [f"f{i}"]),
            node("Add", [f"e{i}", f"f{i}"], [f"a{i}"]),
            node("Tanh", [f"a{i}"], [f"t{i}"]),
        ]
    nodes.append(node("Sum", ["z", *(f"t{i}" for i in range(n_functions))], ["s0"]))
    if "half" in inputs:  # of what the sum is compared with, each time anew
        nodes += [node("Mul", ["s0", "k"], ["half"]), node("Greater", ["s0", "o"], ["where"])]
        tensors.append(tensor("o", (), f4(0)))
        nodes += [node(kind, inputs, [f"u{i}"]) for i in range(times)]
        kind, inputs, times = "Sum", [f"u{i}" for i in range(times)], 1
    nodes += [node(kind, [f"s{i}", *inputs], [f"s{i + 1}"]) for i in range(times)]
    nodes.append(node("Relu", [f"s{times}"], ["y"]))
    return model(graph(nodes, tensors))


_REPEATED = struct.pack("<2q", 1, 2)

SEEDS: dict[str, bytes] = {
    "Gemm and Relu": model(),
    "MatMul and Add, floats as fields": model(
        graph(
            [
                node("MatMul", ["x", "w"], ["p"]),
                node("Add", ["p", "b"], ["z"]),
                node("LeakyRelu", ["z"], ["a"], real("alpha", 0.25)),
                node("Gemm", ["a", "v", "c"], ["s"], number("transB", 1)),
                node("Softmax", ["s"], ["y"], number("axis", -1)),
            ],
            [
                tensor("w", (1, 2), None, more=message(4, f4(0, 1))),
                *TENSORS[1:],
                tensor("v", (2, 2), f4(1, 2, 3, 4)),
                tensor("c", (2,), f4(0, 0)),
            ],
        )
    ),
}

ATTACKS: dict[str, Attack] = {
    # the encoding
    "empty": b"",
    "zeros": bytes(1000),
    "not a protobuf": b"not a protobuf, whatever it is",
    "pickle": b"\x80\x04\x8c\x02os\x8c\x05abort\x93)R.",
    "a varint without end": b"\x08" + b"\xff" * 100,
    "a length beyond the file": model()[:-5] + message(7, b"", 2**31),
    "a length of 2^64 - 1": integer(1, 8) + key(7, 2) + varint(2**64 - 1),
    "a length of minus one": integer(1, 8) + key(7, 2) + varint(-1),
    "bytes behind": model() + b"\0",
    "half a field behind": model() + b"\x0a",
    "groups that never end": b"\x0b" * 100_000,
    "graph twice": model() + message(7, graph()),
    "graph missing": model()[: -len(message(7, graph()))],
    "graph of another kind": integer(1, 8) + integer(7, 8),
    "messages nested 10,000 deep": nested(10_000),
    "messages nested 200 deep": nested(200),
    "a million fields": lazily(lambda: model() + integer(5, 1) * 1_000_000),
    "a million unknown fields": lazily(lambda: model() + integer(999, 1) * 1_000_000),
    "a million names": lazily(lambda: model(graph(more=message(10, "x") * 1_000_000))),
    "200,000 empty nodes": lazily(lambda: with_nodes(*[b""] * 200_000)),
    "200,000 empty tensors": lazily(lambda: model(graph(tensors=[b""] * 200_000))),
    "200,000 empty inputs": lazily(lambda: model(graph(inputs=[b""] * 200_000))),
    "dims by the hundred thousand": lazily(lambda: with_tensor("w", [1] * 400_000, f4(0, 1))),
    # the model
    "IR of 2^40": model(ir=2**40),
    "IR of minus one": model(ir=-1),
    "opset of 2^40": model(opset=2**40),
    "opset of minus one": model(opset=-1),
    "two opsets of one domain": model(more=message(8, integer(2, 9))),
    "functions of its own": model(more=message(25, message(1, "f"))),
    "training": model(more=message(20, b"")),
    "metadata twice": model(more=metadata("a", "1") + metadata("a", "2")),
    "architecture not JSON": model(more=metadata("fastnn", "__import__('os')")),
    "architecture nested deep": model(more=metadata("fastnn", "[" * 100_000)),
    "architecture of another network": model(more=metadata("fastnn", '{"version": 1}')),
    # other files
    "weights in another file": external(location="weights.bin"),
    "weights in /etc/passwd": external(location="/etc/passwd", offset="0", length="8"),
    "weights in a parent folder": external(location="../../../etc/passwd"),
    "weights at a URL": external(location="https://example.com/w"),
    "weights in this file": external(location="a.onnx"),
    "weights elsewhere, told without a place": external(),
    "weights here and elsewhere": with_tensor("w", (1, 2), f4(0, 1), more=integer(14, 1)),
    "sparse weights": model(graph(more=message(15, b""))),
    # tensors
    "exabyte declared": with_tensor("w", (2**40, 2**40), f4(0, 1)),
    "product overflows to 0": with_tensor("w", (2**32, 2**32), b""),
    "product overflows to 2": with_tensor("w", (2**63 + 1, 2), f4(0, 1)),
    "size negative": with_tensor("w", (-1, -2), f4(0, 1)),
    "size zero": with_tensor("w", (0, 2), b""),
    "size zero and 2^62": with_tensor("w", (0, 2**62), b""),
    "40 sizes": with_tensor("w", [1] * 38 + [1, 2], f4(0, 1)),
    "no sizes": with_tensor("w", (), f4(0)),
    "one byte short": with_tensor("w", (1, 2), f4(0, 1)[:-1]),
    "one byte long": with_tensor("w", (1, 2), f4(0, 1) + b"\0"),
    "no bytes": with_tensor("w", (1, 2), None),
    "bytes twice": with_tensor("w", (1, 2), f4(0, 1), more=message(4, f4(0, 1))),
    "type of strings": with_tensor("w", (1, 2), None, kind=8, more=message(6, "a") * 2),
    "type of complex": with_tensor("w", (1, 2), bytes(16), kind=14),
    "type unknown": with_tensor("w", (1, 2), f4(0, 1), kind=99),
    "type of integers": with_tensor("w", (1, 2), _REPEATED, kind=INT64),
    "in segments": with_tensor("w", (1, 2), f4(0, 1), more=message(3, integer(1, 0))),
    "tensor twice": model(graph(tensors=[*TENSORS, TENSORS[0]])),
    "tensor without a name": model(graph(tensors=[*TENSORS[1:], tensor("", (1, 2), f4(0, 1))])),
    "tensor missing": model(graph(tensors=TENSORS[:1])),
    "NaN weight": with_tensor("w", (1, 2), f4(float("nan"), 1)),
    "infinite bias": with_tensor("b", (2,), f4(0, float("inf"))),
    "weight beyond float32": with_tensor("w", (1, 2), struct.pack("<2d", 1, 1e39), kind=11),
    "bias of another width": with_tensor("b", (3,), f4(1, 2, 3)),
    # the graph
    "no nodes": with_nodes(),
    "no outputs": model(graph(outputs=[])),
    "no inputs": model(graph(inputs=[])),
    "two inputs": model(graph(inputs=[value("x"), value("x2")])),
    "input of strings": model(graph(inputs=[value("x", kind=8)])),
    "input that is a sequence": model(
        graph(inputs=[message(1, "x") + message(2, message(4, b""))])
    ),
    "input of a negative size": model(graph(inputs=[value("x", ("n", -1))])),
    "input of 2^62 values": model(graph(inputs=[value("x", ("n", 2**31, 2**31))])),
    "input of another width": model(graph(inputs=[value("x", ("n", 7))])),
    "output that nothing gives": model(graph(outputs=[value("q")])),
    "a loop": with_nodes(node("Gemm", ["y", "w", "b"], ["z"]), NODES[1]),
    "a node that takes itself": with_nodes(NODES[0], node("Add", ["y", "z"], ["y"])),
    "a value given twice": with_nodes(NODES[0], NODES[0], NODES[1]),
    "operator unknown": after_gemm("System"),
    "operator of a path": after_gemm("../../bin/sh"),
    "operator of another domain": after_gemm("Relu", message(7, "evil.example")),
    "operator that runs": after_gemm("PyOp", message(7, "ai.onnx.contrib")),
    "loop operator": after_gemm("Loop", attribute("body", message(6, graph()), 5)),
    "random operator": after_gemm("RandomNormalLike"),
    "convolution": after_gemm("Conv", inputs=("z", "w")),
    "attribute unknown": after_gemm("Relu", number("evil", 1)),
    "attribute twice": after_gemm("LeakyRelu", real("alpha", 0.1) + real("alpha", 0.2)),
    "attribute of another type": after_gemm("LeakyRelu", number("alpha", 1)),
    "attribute NaN": after_gemm("LeakyRelu", real("alpha", float("nan"))),
    "attribute infinite": after_gemm("Elu", real("alpha", float("inf"))),
    "attribute by reference": after_gemm(
        "LeakyRelu", message(5, message(1, "alpha") + message(21, "evil") + integer(20, 1))
    ),
    "axis of 2^62": after_gemm("Softmax", number("axis", 2**62)),
    "alpha that overflows": with_nodes(
        node("Gemm", ["x", "w", "b"], ["z"], real("alpha", 3e38) + real("beta", 3e38)), NODES[1]
    ),
    "constant of 2^50 values": with_nodes(
        node("ConstantOfShape", ["s"], ["w2"]),
        node("Gemm", ["x", "w2", "b"], ["z"]),
        NODES[1],
        tensors=[*TENSORS, tensor("s", (2,), struct.pack("<2q", 2**25, 2**25), kind=INT64)],
    ),
    "expand to 2^40 values": with_nodes(
        NODES[0],
        node("Expand", ["z", "s"], ["y"]),
        tensors=[*TENSORS, tensor("s", (2,), struct.pack("<2q", 2**20, 2**20), kind=INT64)],
    ),
    "reshape to nothing": with_nodes(
        NODES[0],
        node("Reshape", ["z", "s"], ["y"]),
        tensors=[*TENSORS, tensor("s", (2,), struct.pack("<2q", -1, -1), kind=INT64)],
    ),
    "a chain of 100,000 nodes": lazily(lambda: chain(100_000)),
    "a chain of 2,000 nodes": lazily(lambda: chain(2000)),
    "a chain of 3,000 nodes": lazily(lambda: chain(3000)),
    "2,600 sums of 15 functions": lazily(lambda: of_formula(15, "Sum", ["k"] * 15, 2600)),
    "1,900 sums of 15 functions": lazily(lambda: of_formula(15, "Sum", ["k"] * 15, 1900)),
    "190 sums of 250 numbers": lazily(lambda: of_formula(1, "Sum", ["k"] * 250, 190)),
    "15 functions, less in 1,900 nodes": lazily(lambda: of_formula(15, "Neg", [], 1900)),
    "15 functions, moved in 1,900 nodes": lazily(lambda: of_formula(15, "Add", ["k"], 1900)),
    "1,900 times the larger of two sums": lazily(
        lambda: of_formula(15, "Max", ["s0", "half"], 1900)
    ),
    "1,900 choices between two sums": lazily(
        lambda: of_formula(15, "Where", ["where", "s0", "half"], 1900)
    ),
    "the least of a value and a number, in 14,000 nodes": lazily(
        lambda: of_formula(0, "Min", ["k"], 14_000)
    ),
    "a constant copied 400 times": lazily(lambda: turned(400)),
    "one list of 500,000 classes 300 times": lazily(lambda: labelled(300)),
    "250 lists of long texts": lazily(
        lambda: labelled(250, message(9, "a" * 5000) + message(9, "b") * 199)
    ),
    "30,000 labels of 10,000 characters": lazily(named_by_one_text),
    "a large matrix scaled 500 times": lazily(lambda: scaled(500)),
    "a sum of 50,000": lazily(
        lambda: with_nodes(NODES[0], node("Sum", ["z"] * 50_000, ["s"]), node("Relu", ["s"], ["y"]))
    ),
    "names of a million characters": lazily(
        lambda: with_nodes(
            node("Gemm", ["x", "w", "b"], ["z" * 10**6]),
            node("Relu", ["z" * 10**6], ["y"], name="n" * 10**6),
        )[:-1]
    ),
    "names of surrogates": after_gemm("\ud800"),
    "names of control characters": after_gemm("\x1b[2J\n"),
    # what is no file
    "a folder": folder,
    "a named pipe": pipe,
}
