# a grandchild keeps stdout open
# earns 1
import os, time
if os.fork() == 0:
    if os.fork() == 0:
        time.sleep(1e6)
    os._exit(0)
os.wait()
print("harmless")
