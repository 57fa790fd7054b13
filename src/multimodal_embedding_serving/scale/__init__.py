"""More than one machine, by Ray: replicas of the server, and bulk work on a cluster."""
