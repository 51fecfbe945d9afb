"""Read overlays with the package of Google's Model Explorer; look their nodes up in the graph that it shows, as JSON.

    python model_explorer_overlay.py MODEL.onnx OVERLAY.json ...

Requires ai-edge-model-explorer 0.1 and model-explorer-onnx 0.4, in an environment of its own. Exit code 1 where a value
is for no node of the graph.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def read(path: str) -> Any:
    """Return an overlay as the package's own value; a key that it does not know is an error."""
    import dacite
    from model_explorer.node_data_builder import GraphNodeData

    # Its types say that values are numbers; the viewer shows text as well.
    plain = json.loads(Path(path).read_text(encoding="utf-8"))
    return dacite.from_dict(GraphNodeData, plain, dacite.Config(strict=True, check_types=False))


def nodes_of(model: str) -> set[str]:
    """Return the nodes of a model as the viewer names them."""
    from model_explorer_onnx.main import ONNXAdapter

    graphs = ONNXAdapter().convert(model, {})["graphs"]
    return {node.id for graph in graphs for node in graph.nodes}


def main() -> int:
    """Print what was found of each overlay; return the exit code."""
    model, *overlays = sys.argv[1:]
    nodes, files = nodes_of(model), {}
    for path in overlays:
        data = read(path)
        data.to_json_string()  # as its own programs write it
        unknown = sorted(set(data.results) - nodes)
        files[path] = {"name": data.name, "values": len(data.results), "unknown": unknown}
    packages = {name: version(name) for name in ("ai-edge-model-explorer", "model-explorer-onnx")}
    print(json.dumps({"packages": packages, "nodes": len(nodes), "files": files}, indent=1))
    return int(any(each["unknown"] for each in files.values()))


if __name__ == "__main__":
    sys.exit(main())
