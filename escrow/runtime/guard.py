"""The small program that ends an escrow's containers when the escrow ends, in whatever way.

`escrow.runtime.docker` runs this file as a script, with `-I -S` and the standard library only, as
`guard.py SOCKET NAME=VALUE`. Rules:

1. It waits for the end of its standard input, which is a pipe that the escrow alone holds: a killed escrow closes it.
   One that ends well says a word before: nothing of it is on its way to the engine any more.
2. Then it removes the containers and the volumes that carry the label, and nothing else. Each object of a runtime has a
   label of its own, so what an escrow makes that is started again meanwhile is left alone.
3. If the engine is away or refuses, it tries again, each time on a new connection, for some minutes.
4. Without that word it goes on looking for some seconds: the engine may have been creating a container while the escrow
   died. One that takes still longer can escape it, but nobody starts that one; the next start-up removes it.
5. It starts nothing and reads nothing of a job.
"""

import json
import os
import socket
import sys
import time
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote, urlencode

SECONDS = 60
PAUSES = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 60.0, 60.0)  # before each attempt, in seconds
LATE_SECONDS = 10  # in which the engine should have made what a killed escrow had asked for
FOUND = 200
GONE = (204, 404)
UNDER_WAY = 409


class Connection(HTTPConnection):
    """The engine's API on its Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=SECONDS)
        self.path = path

    def connect(self) -> None:
        """Connect to the socket instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

    def ask(self, method: str, path: str, **query: str) -> tuple[int, bytes]:
        """Status and content of one answer."""
        self.request(method, f"{path}?{urlencode(query)}")
        answer = self.getresponse()
        return answer.status, answer.read()

    def found(self, path: str, **query: str) -> Any:
        """What the engine lists, read from JSON; HTTPException if it refuses to."""
        status, content = self.ask("GET", path, **query)
        if status != FOUND:
            raise HTTPException(f"the engine answered {status}")
        return json.loads(content)


def remove(engine: Connection, label: str) -> bool:
    """Remove all that carries the label now; whether nothing was left to remove."""
    carrying = json.dumps({"label": [label]})
    containers = [each["Id"] for each in engine.found("/containers/json", all="1", filters=carrying)]
    for name in containers:
        if engine.ask("DELETE", f"/containers/{name}", force="1", v="1")[0] == UNDER_WAY:  # somebody removes it already
            engine.ask("POST", f"/containers/{name}/wait", condition="removed")
    volumes = engine.found("/volumes", filters=carrying)["Volumes"] or []
    left = [each for each in volumes if engine.ask("DELETE", f"/volumes/{quote(each['Name'])}")[0] not in GONE]
    return not containers and not left


def attempt(path: str, label: str) -> bool:
    """Connect and remove; whether nothing was left. False if the engine does not answer as it should."""
    engine = Connection(path)
    try:
        return remove(engine, label)
    except (OSError, HTTPException, ValueError):
        return False
    finally:
        engine.close()


def main(path: str, label: str) -> None:
    """Wait for the end of standard input, then remove until nothing is left, and nothing more can come."""
    late = LATE_SECONDS
    while os.read(0, 1):
        late = 0
    end = time.monotonic() + late
    for pause in PAUSES:
        time.sleep(pause)  # an engine tells nobody when it is back, or has made what nobody waits for any more
        if attempt(path, label) and time.monotonic() >= end:
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
