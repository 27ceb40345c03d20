"""Reads a mounted file, and if its text says so, waits until it changes, as a process does that runs for long."""

import os
import time
from pathlib import Path

from prefect import flow

FOLDER = Path("/srv/doppler/files")


@flow(log_prints=True)
def main() -> None:
    first = (FOLDER / "profiles.yml").read_text()
    print(f"profiles = {first}")
    print(f"files = {sorted(path.name for path in FOLDER.iterdir() if not path.name.startswith('..'))}")
    print(f"files in the environment: {[name for name in os.environ if name.endswith('.yml') or os.environ[name] == first]}")
    deadline = time.monotonic() + 120
    while "follow" in first and time.monotonic() < deadline:
        now = (FOLDER / "profiles.yml").read_text()
        if now != first:
            print(f"changed = {now}")
            return
        time.sleep(0.2)


if __name__ == "__main__":
    main()
