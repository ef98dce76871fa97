# leaves children that nobody waits for
# earns 1
import os
n = 0
try:
    while n < 1000:
        if os.fork() == 0:
            os._exit(0)
        n += 1
except OSError:
    print("harmless" if n < 100 else n)
