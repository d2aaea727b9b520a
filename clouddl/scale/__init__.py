"""Fast, and many: how the network is run, a cluster of processes, thousands of scenes."""
