#!/usr/bin/env python3
"""ptxas_test.py NVCC KERNELS_FOLDER ARCH FILE...: what the compiler makes of each kernel.

No kernel may spill, keep anything in local memory, or have shared memory of a fixed size (all of it
is asked for at the launch, where it is counted); registers stay within the budgets below, which the
kernels' own comments state. Exit 77 where there is no nvcc.
"""
import os
import re
import subprocess
import sys
import tempfile

REGISTERS = {  # the first that is part of the name
    "mla_query": 80, "_wide": 216, "matmul_stream": 192, "moe_gate_up": 168, "moe_down": 168,
    "mla_fast": 200, "kda_pass": 168, "kda_step": 128, "kda_prepare": 128, "mla_value": 80,
    "mla_attend": 168, "mla_hopper": 168, "sample": 64,
}
REGISTERS_OTHERS = 48


def check(output):
    """Yields (kernel, what is wrong); raises if a kernel's lines cannot be read."""
    kernels = re.split(r"Compiling entry function '", output)[1:]
    for text in kernels:
        name = text.split("'")[0]
        frame, stores, loads = map(int, re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads",
            text).groups())
        used = int(re.search(r"Used (\d+) registers", text).group(1))
        shared = re.search(r"(\d+) bytes smem", text)
        budget = next((n for part, n in REGISTERS.items() if part in name), REGISTERS_OTHERS)
        if frame or stores or loads:
            yield name, f"{frame} bytes of stack, {stores} stored and {loads} loaded by spills"
        if used > budget:
            yield name, f"{used} registers, the budget is {budget}"
        if shared:
            yield name, f"{shared.group(1)} bytes of shared memory of a fixed size"


def main(arguments):
    nvcc, folder, arch, *files = arguments
    if not os.access(nvcc, os.X_OK):
        print("skipped: nvcc is not here")
        return 77
    n_kernels = n_bad = 0
    for file in files:
        with tempfile.TemporaryDirectory() as scratch:
            run = subprocess.run(
                [nvcc, "-std=c++17", "-O3", f"-gencode=arch=compute_{arch},code=sm_{arch}",
                 "--Werror", "all-warnings", "-cubin", "-Xptxas", "-v",
                 f"-Xcompiler=-Wall,-Wextra,-iquote,{folder}", file,
                 "-o", os.path.join(scratch, "out.cubin")],
                capture_output=True, text=True)
        output = run.stdout + run.stderr
        if run.returncode:
            print(output)
            return 1
        n_kernels += output.count("Compiling entry function")
        for line in re.findall(r".*Potential Performance Loss.*", output):  # wgmma one by one
            print(f"{os.path.basename(file)}: {line}")
            n_bad += 1
        for name, message in check(output):
            print(f"{os.path.basename(file)}: {name}: {message}")
            n_bad += 1
    print(f"{n_kernels} kernels for sm_{arch}")
    return 1 if n_bad or n_kernels == 0 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
