"""REST in front of the queue and the store."""
