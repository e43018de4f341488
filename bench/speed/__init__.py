"""Speed benchmarks: scripts that compare in one run, because this machine's speed drifts."""
