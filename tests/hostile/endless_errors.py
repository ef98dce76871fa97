# writes to stderr without end
# earns 0
import os
while True:
    os.write(2, b"y\n" * 32768)
