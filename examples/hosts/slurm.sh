#!/bin/bash
#SBATCH --job-name=spice-select
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --requeue
# sbatch examples/hosts/slurm.sh run my.jsonl --output /shared/chosen --resume
# In the project's directory, with its environment active; that directory must be shared too.
set -eu
NODES=$SLURM_JOB_NUM_NODES PROCESSES=${SLURM_GPUS_ON_NODE:-1} JOB=$SLURM_JOB_ID
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export NODES PROCESSES HEAD JOB
exec srun bash examples/hosts/each_host.sh "$@"
