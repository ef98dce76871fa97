# closes what it was given
# earns 0
import os
for fd in range(64):
    try:
        os.close(fd)
    except OSError:
        pass
