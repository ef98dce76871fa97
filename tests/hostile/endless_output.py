# prints without end
# earns 0
import os
while True:
    os.write(1, b"y\n" * 32768)
