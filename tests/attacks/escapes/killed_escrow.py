"""An escrow that ends itself with SIGKILL at a moment: `python killed_escrow.py ROOT IMAGE SEALING MOMENT`."""

import os
import signal
import sys
from contextlib import closing
from pathlib import Path

from escrow.runtime import images
from tests.attacks.escapes.stage import Stage


def main(root: str, image: str, sealing: str, moment: str) -> None:
    with closing(images.engine()) as engine:
        stage = Stage(Path(root), image, engine, sealing)
        deed = "work_at_once" if moment in {"finished", "collecting"} else "work_on"
        job = stage.job(moment, {"deed": f"victim.{deed}"})
        stage.runtime.prepare(job)
        if moment != "prepared":
            stage.runtime.start(job)
        if moment == "running":
            stage.hear(job)
        if moment in {"finished", "collecting"}:
            stage.runtime.wait([job.id])
        if moment == "collecting":
            stage.runtime.collect(job)["found.json"].open().read(1000)
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
