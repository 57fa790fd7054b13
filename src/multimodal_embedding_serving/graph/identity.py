"""A hash of what a graph computes: operations, attributes, connections, every weight.

Names, file formats and the version of OpenVINO are not part of it, so the same model converted
again, on another machine or in another year, has the same hash; changing any weight, pooling or
scale changes it.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from multimodal_embedding_serving.graph.runtime import ov


def hash_structure(model: ov.Model) -> str:
    """SHA-256 of the model's operations in topological order, in hexadecimal."""
    digest = hashlib.sha256()
    places: dict[str, int] = {}
    for place, node in enumerate(model.get_ordered_ops()):
        places[node.get_name()] = place
        sources = [
            (places[source.get_node().get_name()], source.get_index())
            for source in node.input_values()
        ]
        line = [node.get_type_name(), _plain(node.get_attributes()), sources]
        digest.update(json.dumps(line, sort_keys=True, default=str).encode())
        if node.get_type_name() == "Constant":
            values = node.get_tensor_view().data
            digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _plain(attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes, without those that differ from run to run."""
    return {name: value for name, value in attributes.items() if name not in ("variable_id",)}
