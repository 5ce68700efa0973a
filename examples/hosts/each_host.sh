#!/bin/bash
# One command of spice-select on several hosts; run this on each of them, with the same words:
#   NODES=2 PROCESSES=8 HEAD=node1 bash each_host.sh run my.jsonl --output /shared/chosen --resume
# NODES: hosts. PROCESSES: of this host, one for each GPU. HEAD: one of the hosts, by the name under which all find it.
# PORT: of HEAD, free. JOB: the same word on all hosts. RESTARTS: how often torchrun starts lost processes again.
set -eu
exec torchrun --nnodes "$NODES" --nproc-per-node "$PROCESSES" --rdzv-backend c10d \
  --rdzv-endpoint "$HEAD:${PORT:-29500}" --rdzv-id "${JOB:-spice}" --max-restarts "${RESTARTS:-0}" \
  -m spice_select "$@"
