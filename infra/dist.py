"""The wheel, the zip that `spark-submit --py-files` takes, and the zip's SHA-256, by which the ledger names it.

    python infra/dist.py [FOLDER]

The zip is the wheel under another name: Spark puts a `.zip` on the executors' path, and a `.whl` not. hatchling dates
every member alike and sorts them, so the same sources make the same bytes.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


ZIP = "cuvee.zip"


def build(folder: Path) -> tuple[Path, Path]:
    """Build the wheel of the sources beside this file into `folder`; return it and its zip."""
    folder = folder.resolve()
    for old in folder.glob("cuvee-*.whl"):
        old.unlink()
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"dist.py: hatchling failed\n{done.stderr}")
    [wheel] = folder.glob("cuvee-*.whl")
    return wheel, Path(shutil.copyfile(wheel, folder / ZIP))


def main() -> int:
    """Build, and print each file; the zip with its SHA-256."""
    wheel, packed = build(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "dist")
    print(wheel)
    print(packed, hashlib.sha256(packed.read_bytes()).hexdigest())
    return 0


if __name__ == "__main__":
    sys.exit(main())
