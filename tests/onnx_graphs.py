"""ONNX graphs built by hand, node by node, not by the code under test."""

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

FLOAT, UINT8, INT8, INT32, INT64 = 1, 2, 3, 6, 7
STRING, BOOL, DOUBLE = 8, 9, 11


class Graph:
    """Nodes and tensors as they come; `node` and `tensor` give the name of what they made."""

    def __init__(self, shape=("N", 6), element=FLOAT, opset=20, ml=None):
        self.nodes, self.tensors, self.opset, self.ml = [], [], opset, ml
        self.inputs = [helper.make_tensor_value_info("x", element, shape)]
        self.names = 0

    def name(self):
        self.names += 1
        return f"v{self.names}"

    def tensor(self, value, dtype=np.float32):
        name = self.name()
        self.tensors.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def constant(self, value, dtype=np.float32):
        """As a Constant node."""
        return self.node("Constant", value=numpy_helper.from_array(np.array(value, dtype)))

    def node(self, kind, *inputs, outputs=1, domain="", **attributes):
        """Inputs are names, or values that become initializers; None is one left out."""
        names = [
            "" if value is None else value if isinstance(value, str) else self.tensor(value)
            for value in inputs
        ]
        given = [self.name() for _ in range(outputs)]
        made = helper.make_node(kind, names, given, name=f"n_{given[0]}", domain=domain)
        made.attribute.extend(
            helper.make_attribute(key, value) for key, value in attributes.items()
        )
        self.nodes.append(made)
        return given[0] if outputs == 1 else given

    def ml_node(self, kind, *inputs, outputs=1, **attributes):
        """A node of scikit-learn's operators."""
        self.ml = self.ml or 3
        return self.node(kind, *inputs, outputs=outputs, domain="ai.onnx.ml", **attributes)

    def dense(self, x, weight, bias):
        return self.node("Gemm", x, weight, bias)

    def model(self, *outputs, metadata=None, **rest):
        """The ModelProto with these outputs."""
        infos = [ValueInfoProto(name=name) for name in outputs]
        for info in infos:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
        graph = helper.make_graph(self.nodes, "g", self.inputs, infos, self.tensors)
        opsets = [helper.make_opsetid("", self.opset)]
        if self.ml:
            opsets.append(helper.make_opsetid("ai.onnx.ml", self.ml))
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8, **rest)
        if metadata:
            helper.set_model_props(model, metadata)
        return model
