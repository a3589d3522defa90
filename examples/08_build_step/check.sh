#!/bin/sh
# What a continuous integration job runs. The only interface it needs are exit codes, and JSON for those who want numbers.
set -u
whet=${1:-whet}

# Is the artifact still the one that was written, and how far is it from its source on real data?
$whet diff model.onnx out --feeds calibration.npz --tolerance 0.1 || exit $?

# Limits of the product, not of the tool: report.json has everything that was measured.
"${PYTHON:-python3}" -c '
import json, sys
report = json.load(open("out/report.json"))
before, after = report["before"], report["after"]
metric = report["metric"]
size, drop = after["bytes"] / before["bytes"], metric[0] - metric[1]
print(f"size {size:.2f} of the source, accuracy {metric[1]:.4f} (down by {drop:.4f})")
sys.exit(size > 0.6 or drop > 0.02)
' || exit 1

# A budget that cannot be kept is no crash: exit code 3, and the closest artifact is there to be looked at.
$whet compile model.onnx -o small --recipe exact --size 1KB --no-measure >small.txt 2>&1
code=$?
if [ $code -ne 3 ]; then
    echo "expected exit code 3 for an impossible budget, got $code"
    exit 1
fi
tail -n 1 small.txt
