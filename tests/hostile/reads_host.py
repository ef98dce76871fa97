# reads the host's files, its environment and its processes; stdin names a file of the host
# earns 1
import os
found = []
for path in (input(), "/etc/passwd", "/etc/shadow", "/etc/hostname", "/root", "/home", "/var", "/sys", "/run", "/boot",
             "/proc/1/root/etc/passwd", "/proc/1/cwd/etc", "/usr/local"):
    if os.path.exists(path):
        found.append(path)
for pid in (p for p in os.listdir("/proc") if p.isdigit()):
    try:
        with open(f"/proc/{pid}/environ", "rb") as f:
            if b"HOSTILE_SECRET" in f.read():
                found.append("environment of " + pid)
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            if b"bats" in f.read():
                found.append("process " + pid)
    except OSError:
        pass
if "HOSTILE_SECRET" in os.environ:
    found.append("environment")
print("harmless" if not found else found)
