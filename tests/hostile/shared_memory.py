# memory that is shared counts once for each process, and no limit of one process sees it
# earns 0
import mmap, os, time
for _ in range(40):
    if os.fork() == 0:
        m = mmap.mmap(-1, 60 << 20)
        m.write(b"x" * (60 << 20))
        time.sleep(100)
time.sleep(100)
