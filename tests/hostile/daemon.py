# leaves a daemon behind: two forks, a session of its own, no descriptors
# earns 1
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 64)
        while True:
            time.sleep(1)
    os._exit(0)
os.wait()
print("harmless")
