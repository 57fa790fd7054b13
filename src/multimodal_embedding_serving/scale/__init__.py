"""Scale out with Ray: replicas of the server, and bulk jobs on a cluster."""
