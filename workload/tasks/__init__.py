"""The steps that run as ClearML tasks. Each `main()` runs on an agent, or anywhere with a clearml.conf."""
