#!/usr/bin/env bash
# The 4-bit kernels outside Python: on this processor, with the address and undefined-behavior
# sanitizers, with the thread sanitizer, with clang, and for 64-bit ARM under qemu-user.
#   apt-get install g++ clang qemu-user g++-aarch64-linux-gnu; tests/stress/kernels.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sources=(tests/stress/kernels.cpp moee_index/model/nf4/native/*.cpp)
flags=(-std=c++17 -O2 -ffp-contract=off -pthread)

echo "== this processor"
g++ "${flags[@]}" -O3 "${sources[@]}" -o "$work/plain"
"$work/plain"
echo "== address and undefined behavior"
g++ "${flags[@]}" -g -fsanitize=address,undefined -fno-sanitize-recover=all "${sources[@]}" \
  -o "$work/address"
"$work/address"
echo "== threads"
g++ "${flags[@]}" -g -fsanitize=thread "${sources[@]}" -o "$work/thread"
"$work/thread"
if command -v clang++ > /dev/null; then
  echo "== clang"
  clang++ "${flags[@]}" -O3 "${sources[@]}" -o "$work/clang"
  "$work/clang"
fi
if command -v aarch64-linux-gnu-g++ > /dev/null && command -v qemu-aarch64 > /dev/null; then
  echo "== 64-bit ARM"
  aarch64-linux-gnu-g++ "${flags[@]}" -O3 -static "${sources[@]}" -o "$work/arm"
  qemu-aarch64 "$work/arm"
fi
