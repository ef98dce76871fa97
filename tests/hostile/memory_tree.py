# each of many processes takes less than it may, together they take more
# earns 0
import os, time
for _ in range(40):
    if os.fork() == 0:
        kept = b"x" * (60 << 20)
        time.sleep(100)
time.sleep(100)
