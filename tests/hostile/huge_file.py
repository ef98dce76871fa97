# fills the disk with a file
# earns 1
written = 0
try:
    with open("huge", "wb", 0) as f:
        while True:
            written += f.write(bytes(1 << 20))
except OSError:
    print("harmless" if written <= 64 << 20 else written)
