from __future__ import annotations

from workload.cli import main

raise SystemExit(main())
