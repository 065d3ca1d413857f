"""Many runs: planned, performed on this machine or a cluster, and searched for λ."""
