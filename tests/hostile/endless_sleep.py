# never ends, and does nothing
# earns 0
import time
time.sleep(1e6)
