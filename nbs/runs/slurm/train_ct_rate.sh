#!/bin/bash
# The four models from a cache of CT-RATE on two nodes of eight GPUs:
#   sbatch nbs/runs/slurm/train_ct_rate.sh data/cache outputs/ct_rate
# Sent again after a stop, it goes on where it was: what is finished is used, what was cut off is taken up.
#SBATCH --job-name=hsenet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail

cache=$1   # on a file system that all nodes share, or shards
output=$2
preset=${3:-standard}

host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
config=nbs/runs/accelerate/two_machines.yaml

stage() {  # once on each node; each knows its number only there
    srun bash -c 'accelerate launch --config_file "$0" --num_machines "$SLURM_NNODES" \
        --num_processes $((8 * SLURM_NNODES)) --machine_rank "$SLURM_NODEID" --main_process_ip "$1" \
        --no_python hsenet train "${@:2}"' "$config" "$host" "$@"
}

# sixteen processes share a batch equally, so it is a multiple of 16
stage stage1 "$cache" "$output/stage1" --preset "$preset" --set stage1.batch_size=48
stage stage2 "$cache" "$output/stage2" --stage1 "$output/stage1" --preset "$preset" --set stage2.batch_size=48
stage mrg "$cache" "$output/mrg" --stage1 "$output/stage1" --stage2 "$output/stage2" --preset "$preset" --set mrg.micro_batch_size=1
stage vqa "$cache" "$output/vqa" --mrg "$output/mrg" --preset "$preset" --set vqa.batch_size=48 --set vqa.micro_batch_size=3
