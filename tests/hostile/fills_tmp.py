# fills the disk with many files
# earns 1
import os
written = 0
try:
    for i in range(1000):
        with open(f"/tmp/{i}", "wb", 0) as f:
            written += f.write(bytes(1 << 20))
except OSError:
    print("harmless" if written <= 64 << 20 else written)
