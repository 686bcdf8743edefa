"""The reference workload: synthetic RAN telemetry, ingest into a ClearML Dataset, and four tasks that train on it."""
