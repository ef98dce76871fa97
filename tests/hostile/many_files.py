# keeps as many files open as it can; was given none but the three
# earns 1
import os
given = [int(fd) for fd in os.listdir("/proc/self/fd")]
opened = 0
try:
    while opened < 100000:
        os.open("/dev/null", os.O_RDONLY)
        opened += 1
except OSError:
    print("harmless" if opened <= 64 and max(given) == 3 else (opened, given))
