"""A stand-in for a daemon, as a program: what it does is in the environment, under its name."""

import os
import signal
import subprocess
import sys

behaviour = os.environ.get("TEST_BEHAVIOUR", "good")
sys.stderr.write("hello\nno line break at the end")
sys.stderr.flush()
if behaviour == "dies":
    raise SystemExit(78)
if behaviour == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if behaviour == "leaves-child":
    subprocess.Popen(["sleep", "600"], start_new_session=True)
sys.stdout.write("\nready\n")
sys.stdout.flush()
while True:
    signal.pause()
