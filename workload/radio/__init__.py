"""The second workload: a radio map of path loss, learned from measurements on a floor."""
