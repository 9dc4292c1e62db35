"""Serve: answer parties, run approved contracts, until SIGTERM."""

import os
import sys
import time
from typing import Annotated, Literal

import typer

from contracts.answers import Answer
from escrow.cli.home import Home
from escrow.sealing import IMAGE, Seal

MAIN, ENROLMENT, METRICS = 7443, 7444, 9464
Port = Annotated[int, typer.Option(min=0, max=65535, help="For admitted parties. 0: any that is free.")]
EnrolmentPort = Annotated[int, typer.Option("--enrol-port", min=0, max=65535, help="For those who ask to be admitted.")]
MetricsPort = Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1: /metrics, /healthz, /readyz.")]
Listen = Annotated[str, typer.Option(metavar="HOST", help="Address to listen on; 0.0.0.0 for every one.")]
SealingName = Literal["container", "gvisor", "none"]
SealedBy = Annotated[
    SealingName,
    typer.Option("--sealing", envvar="ESCROW_SEALING", help="What jobs run in. none: not sealed, for development."),
]
Image = Annotated[
    str, typer.Option(metavar="REF", envvar="ESCROW_IMAGE", help="The worker's image, a reference or a digest.")
]


def serve(  # noqa: PLR0917 - the options of one command, each by name
    home: Home,
    listen: Listen = "127.0.0.1",
    port: Port = MAIN,
    enrolment: EnrolmentPort = ENROLMENT,
    metrics_port: MetricsPort = METRICS,
    runs: Annotated[int, typer.Option(min=1, max=64, help="How many runs may be under way at once.")] = 1,
    grace: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="What calls have to end on SIGTERM.")] = 20.0,
    sealing: SealedBy = "container",
    image: Image = IMAGE,
) -> Answer:
    """Serve the escrow of a directory until SIGTERM or Ctrl-C; a second signal ends it at once.

    Approved contracts run by themselves, in the order of their approval. What a restart interrupts goes on.
    The log goes to stderr, a JSON object on each line; the event `ready` names the ports.

    Jobs run in containers without network, of the image that `escrow image build` makes.
    Every contract names its sealing and its image: this escrow runs no other.
    What runs with --sealing none can only be released as development.

    Example: escrow serve --home /var/lib/escrow --listen 0.0.0.0
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own lines are no JSON; what fails is told by our events
    from escrow import daemon  # noqa: PLC0415 - help and wrong usage answer at once
    from escrow.logs import Log  # noqa: PLC0415
    from escrow.server import Ports  # noqa: PLC0415

    settings = daemon.Settings(Ports(listen, port, enrolment), metrics_port, runs, grace)
    daemon.serve(home.absolute(), Log(sys.stderr, time.time), settings, runtime=Seal(sealing, image).runtime)
    return Answer({"stopped": True}, "The escrow has stopped.")
