# starts itself with larger and larger arguments
# earns 1
import os, sys
size = 1 << 16
while size < 1 << 26:
    try:
        pid = os.fork()
        if pid == 0:
            os.execv("/usr/bin/true", ["true"] + ["x" * 100000] * (size // 100000 + 1))
        os.waitpid(pid, 0)
    except OSError:
        if pid == 0:
            os._exit(1)
    size *= 2
print("harmless")
