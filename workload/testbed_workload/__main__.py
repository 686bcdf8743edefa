from __future__ import annotations

from testbed_workload.cli import main

raise SystemExit(main())
