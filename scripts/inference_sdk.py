"""Asks a running server with Roboflow's inference-sdk, as its users do, and looks at what supervision makes of it.

The SDK needs other versions of numpy and Pillow than this project, so it gets an environment of its own below .tools.
`--record` writes the SDK's request, which tests/gateway/test_sam3.py sends again.
"""

import argparse
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent
ENVIRONMENT: Final = REPOSITORY / ".tools" / "inference-sdk"
REQUIREMENTS: Final = ("inference-sdk==1.8.0", "supervision==0.31.2")
PROGRAM: Final = REPOSITORY / "scripts" / "parts" / "inference_sdk_program.py"


def main() -> int:
    """Returns the exit status: 0 where every answer is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://localhost:8000", help="the gateway; with the demo model")
    parser.add_argument("--api-key", help="one of its keys")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the SDK's request, and ask nobody")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write the sample with its objects drawn on it")
    arguments = parser.parse_args()
    options = [f"--server={arguments.server}"]
    options += [] if arguments.api_key is None else [f"--api-key={arguments.api_key}"]
    options += [] if arguments.record is None else [f"--record={arguments.record.resolve()}"]
    options += [] if arguments.picture is None else [f"--picture={arguments.picture.resolve()}"]
    return subprocess.run([_python(), PROGRAM, *options], cwd=REPOSITORY, check=False).returncode


def _python() -> Path:
    """The environment's interpreter; installs the SDK where it is not there yet."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "complete").exists():
        sys.stderr.write(f"installing {', '.join(REQUIREMENTS)} into {ENVIRONMENT}\n")
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
        (ENVIRONMENT / "complete").touch()
    return python


if __name__ == "__main__":
    sys.exit(main())
