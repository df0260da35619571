#!/usr/bin/env bash
# Pretrained ResNet-20 to half of its latency by two methods, on the small lossless part of CIFAR-10.
#   WEIGHTS=resnet20_cifar10.safetensors ECC_DATA=/data bash experiments/resnet20_cifar10.sh OUT
# Writes what the commands print to experiments/measurements/resnet20_*.json.
set -eu
out=$1
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out" "$here/measurements"
ecc profile zoo:resnet20 --batch 16 --samples 150 --store "$out/resnet20.db" --json >"$here/measurements/resnet20_profile.json"
ecc fit "$out/resnet20.db" -o "$out/latency.json" --json >"$here/measurements/resnet20_fit.json"
for method in admm uniform; do
  ecc compress zoo:resnet20 --weights "$WEIGHTS" --data cifar10-lossless --budget latency=0.5 \
    --cost "$out/latency.json" --epochs 16 --method "$method" --out "$out/$method" --json \
    >"$here/measurements/resnet20_$method.json" || test $? -eq 1
done
