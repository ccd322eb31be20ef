#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""SparQ in NumPy and double precision, written from the paper: makes expected.json."""
import json
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def largest(x, count):
    """Indices of the largest, the lower index first where equal."""
    return np.argsort(-x, kind="stable")[:count]


def one_group(q, keys, values, r, k, use_mean):
    """q [G, d_h], keys and values [S, d_h] -> error and mass, each [G]."""
    seq_len, head_dim = keys.shape
    components = largest(np.abs(q).sum(0), r)
    share = np.abs(q[:, components]).sum(1, keepdims=True) / np.abs(q).sum(1, keepdims=True)
    approximate = softmax(q[:, components] @ keys[:, components].T / np.sqrt(head_dim * share))
    ranking = approximate.sum(0)
    ranking[seq_len - k // 4:] = np.inf
    tokens = np.sort(largest(ranking, k))

    exact = softmax(q @ keys.T / np.sqrt(head_dim))
    dense = exact @ values
    mass = exact[:, tokens].sum(1)
    y = exact[:, tokens] / mass[:, None] @ values[tokens]
    if use_mean:
        covered = approximate[:, tokens].sum(1, keepdims=True)
        y = covered * y + (1 - covered) * values.mean(0)
    return np.linalg.norm(y - dense, axis=1) / np.linalg.norm(dense, axis=1), mass


def layer_means(name, r, k, use_mean):
    q, keys, values = (np.load(FOLDER / f"{name}_{x}.npy").astype(np.float64) for x in "qkv")
    rows, group = len(q), q.shape[1] // keys.shape[1]
    results = []
    for row in range(rows):
        seq_len = len(keys) - rows + row + 1
        for g in range(keys.shape[1]):
            heads = slice(g * group, (g + 1) * group)
            results.append(one_group(q[row, heads], keys[:seq_len, g], values[:seq_len, g],
                                     r, k, use_mean))
    return np.mean(results, axis=(0, 2))


if __name__ == "__main__":
    lines = []
    for name in sorted(file.name[:-6] for file in FOLDER.glob("*_q.npy")):
        for r, k in ((16, 128), (32, 256)):
            for tail in ("none", "mean_value"):
                error, mass = layer_means(name, r, k, tail == "mean_value")
                lines.append(json.dumps({"layer": name, "r": r, "k": k, "tail": tail,
                                         "error": round(error, 5), "mass": round(mass, 5)}))
    (FOLDER / "expected.json").write_text("[\n  " + ",\n  ".join(lines) + "\n]\n")
