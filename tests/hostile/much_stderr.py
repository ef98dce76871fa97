# writes 4 MB to stderr, which does not matter
# earns 1
import os
for _ in range(64):
    os.write(2, b"y\n" * 32768)
print("harmless")
