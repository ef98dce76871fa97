# writes everywhere
# earns 1
import os
written = []
for place in ("/", "/usr", "/usr/bin", "/usr/lib", "/program", "/dev", "/proc", "/proc/sys", "/etc", "/home", "/root", "/var",
              "/sys", "/run", "/opt"):
    try:
        open(place + "/x", "w")
        written.append(place)
    except OSError:
        pass
for path in ("/program/main.py", "/usr/bin/python3", "/dev/stdin", "/proc/sys/kernel/core_pattern"):
    try:
        with open(path, "r+") as f:
            f.write("x")
        written.append(path)
    except (OSError, ValueError):
        pass
for call in (lambda: os.chmod("/program/main.py", 0o777), lambda: os.unlink("/program/main.py"), lambda: os.rename("/usr", "/x")):
    try:
        call()
        written.append("a name")
    except OSError:
        pass
print("harmless" if not written else written)
