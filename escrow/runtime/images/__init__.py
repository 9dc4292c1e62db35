"""Images that sealed jobs run in: finding the engine and what it holds, and making bases and the worker's image.

`engine` finds, `bases` and `worker` make; `wheelhouse`, `sbom` and `archive` are what making needs. `assemble.py` and
`Dockerfile` run inside the engine's build. Nothing here pulls an image.
"""

from escrow.runtime.images.engine import ImageInfo, engine, find

__all__ = ["ImageInfo", "engine", "find"]
