# SPDX-License-Identifier: MIT
"""make_models.py FOLDER: ONNX models of one GroupQueryAttention node each.

gqa_<query heads>_<KV heads>_<d_h>_<float|int8>.onnx; the length of the cache is free. The
inputs are in the order of the operator's schema.
"""

import sys
from pathlib import Path

from onnx import ModelProto, TensorProto, helper

HEADS = [(32, 32, 128), (32, 8, 128), (8, 8, 128), (9, 3, 64)]


def model(heads_q: int, heads_kv: int, head_dim: int, quantised: bool) -> ModelProto:
    cache_type = TensorProto.INT8 if quantised else TensorProto.FLOAT
    cache_shape = [1, heads_kv, "tokens", head_dim]

    def value(name, kind, shape):
        return helper.make_tensor_value_info(name, kind, shape)

    inputs = [
        value("query", TensorProto.FLOAT, [1, 1, heads_q * head_dim]),
        value("key", TensorProto.FLOAT, [1, 1, heads_kv * head_dim]),
        value("value", TensorProto.FLOAT, [1, 1, heads_kv * head_dim]),
        value("past_key", cache_type, cache_shape),
        value("past_value", cache_type, cache_shape),
        value("seqlens_k", TensorProto.INT32, [1]),
        value("total_sequence_length", TensorProto.INT32, [1]),
    ]
    names = [one.name for one in inputs]
    attributes = {"num_heads": heads_q, "kv_num_heads": heads_kv}
    if quantised:
        inputs += [value("k_scale", TensorProto.FLOAT, [1]), value("v_scale", TensorProto.FLOAT, [1])]
        # Rotary tables, positions, bias and sinks come before the scales and are not used.
        names += [""] * 5 + ["k_scale", "v_scale"]
        attributes |= {"k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR", "kv_cache_bit_width": 8}
    outputs = [
        value("output", TensorProto.FLOAT, [1, 1, heads_q * head_dim]),
        value("present_key", cache_type, cache_shape),
        value("present_value", cache_type, cache_shape),
    ]
    node = helper.make_node(
        "GroupQueryAttention", names, [one.name for one in outputs], domain="com.microsoft", **attributes
    )
    return helper.make_model(
        helper.make_graph([node], "decode_step", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 16), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for heads_q, heads_kv, head_dim in HEADS:
        for quantised in (False, True):
            kind = "int8" if quantised else "float"
            path = folder / f"gqa_{heads_q}_{heads_kv}_{head_dim}_{kind}.onnx"
            path.write_bytes(model(heads_q, heads_kv, head_dim, quantised).SerializeToString())


if __name__ == "__main__":
    main()
