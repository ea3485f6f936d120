#!/usr/bin/env bash
# Starts the queue with the password from its secret, which stands on no command line.
set -euo pipefail
exec redis-server - <<CONFIG
bind 0.0.0.0
port 6379
dir /data/queue
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
requirepass $(cat /run/secrets/tilus_redis_password)
CONFIG
