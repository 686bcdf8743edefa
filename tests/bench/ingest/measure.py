"""Run a command and print what it took: s, s of the processor, and the largest resident set in KiB of its process.

    python -I -S measure.py COMMAND…

A program of its own, as small as can be: Linux counts what the parent had in memory when it made the process.
"""

import os
import sys
import time

began = time.monotonic()
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, usage = os.wait4(pid, 0)
print(time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
raise SystemExit(os.waitstatus_to_exitcode(status))
