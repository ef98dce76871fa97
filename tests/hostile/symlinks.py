# leads out of its directory by links
# earns 1
import os
out = []
for target in ("/etc/passwd", "../../../etc/shadow", "/proc/1/root/root", "/proc/self/cwd/../home"):
    try:
        os.symlink(target, "link")
        if os.path.exists("link"):
            out.append(target)
        with open("link", "w"):
            out.append(target)
    except OSError:
        pass
    os.unlink("link")
for target in ("/program/main.py", "/usr/bin/su"):
    try:
        os.link(target, "hard")
        out.append(target)
    except OSError:
        pass
print("harmless" if not out else out)
