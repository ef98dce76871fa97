# stops, and waits for ever to be continued
# earns 0
import os, signal
os.kill(os.getpid(), signal.SIGSTOP)
