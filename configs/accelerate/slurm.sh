#!/bin/bash
# A stage on all GPUs of several machines:
#   sbatch configs/accelerate/slurm.sh train-lm --data runs/data --output runs/model --max-minutes 60
# Two minutes before its time is over the job is told, and the run stops with a checkpoint. The same command continues it.
# For FSDP2: sbatch --export=ALL,ACCELERATE_USE_FSDP=true,FSDP_VERSION=2 configs/accelerate/slurm.sh train-lm ...
#SBATCH --job-name=vqlm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
set -euo pipefail

machines=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
exec srun torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node "${SLURM_GPUS_ON_NODE:-8}" \
    --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "${machines[0]}:29500" \
    -m vqlm "$@" --resume
