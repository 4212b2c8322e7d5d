"""A llama-server that passes for one with CUDA: the real server of the wheel behind the answers of a CUDA build.

There is no GPU here, and none is needed to see whether the product notices where an engine runs: NVML's stand-in says
that. ``write`` makes the executable.
"""

from __future__ import annotations

import sys
from pathlib import Path

from engine_provisioner import wheel_server

_PROGRAM = '''#!{python} -P
import os, sys

SERVER, FLAGS, VALUES = {server!r}, {flags!r}, {values!r}
HELP = """
-h,    --help, --usage                  print usage and exit
--version                               show version and build info
--list-devices                          print list of available devices and exit
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM
-fit,  --fit [on|off]                   whether to adjust unset arguments to fit in device memory
""" + "".join(f"{{flag}} {{'VALUE' if flag in VALUES else ''}}\\n" for flag in FLAGS)
OURS = {{"--n-gpu-layers": 1, "--fit": 1, "--cache-type-k": 1, "--say": 1}}

asked = sys.argv[1:]
if asked == ["--version"]:
    print("version: 5001 (c0ffee1)")
elif asked == ["--help"]:
    print(HELP)
elif asked == ["--list-devices"]:
    visible = [uuid for uuid in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if uuid]
    print("Available devices:")
    for number, uuid in enumerate(visible):
        print(f"  CUDA{{number}}: NVIDIA {{uuid}} (24135 MiB, 23860 MiB free)")
else:
    kept = []
    while asked:
        flag = asked.pop(0)
        if flag not in OURS:
            kept.append(flag)
            continue
        value = asked.pop(0)
        if flag == "--say":
            print(value, flush=True)
            sys.exit(1)
    os.execv(sys.executable, [sys.executable, "-P", SERVER, *kept])
'''


def write(path: Path) -> Path:
    """Write the executable. Beside llama-server's flags it takes ``--say TEXT``: print it and end with status 1."""
    text = _PROGRAM.format(
        python=sys.executable,
        server=wheel_server.__file__,
        flags=sorted(wheel_server.FLAGS),
        values=sorted(wheel_server.VALUES),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path
