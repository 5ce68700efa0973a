#!/bin/bash
# The same by accelerate; run this on each host, with MACHINE from 0 (on HEAD) to NODES - 1:
#   NODES=2 PROCESSES=8 HEAD=node1 MACHINE=0 bash accelerate.sh run my.jsonl --output /shared/chosen
set -eu
exec accelerate launch --multi_gpu --num_machines "$NODES" --num_processes "$((NODES * PROCESSES))" \
  --machine_rank "$MACHINE" --main_process_ip "$HEAD" --main_process_port "${PORT:-29500}" \
  --mixed_precision no --dynamo_backend no -m spice_select "$@"
