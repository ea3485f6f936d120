#!/usr/bin/env bash
# Starts the queue with its users from their secret; the server knows digests, not passwords.
set -euo pipefail
exec redis-server - <<CONFIG
bind 0.0.0.0
port 6379
# Whoever is no user may only ask whether it is there.
protected-mode no
dir /data/queue
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
aclfile /run/secrets/tilus_redis_users
CONFIG
