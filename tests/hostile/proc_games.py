# looks for a way out in /proc
# earns 1
import os
out = []
for path in ("/proc/1/mem", "/proc/kcore", "/proc/kmsg", "/proc/kallsyms"):
    try:
        with open(path, "rb") as f:
            if path != "/proc/kallsyms" or int(f.readline().split()[0], 16):
                f.read(1)
                out.append(path)
    except OSError:
        pass
for path, text in (("/proc/sysrq-trigger", "h"), ("/proc/sys/vm/drop_caches", "1"), ("/proc/1/oom_score_adj", "-1000"),
                   ("/proc/self/uid_map", "0 0 1"), ("/proc/self/oom_score_adj", "-1000")):
    try:
        with open(path, "w") as f:
            f.write(text)
        out.append(path)
    except OSError:
        pass
if sum(p.isdigit() for p in os.listdir("/proc")) > 3:
    out.append("processes of others")
print("harmless" if not out else out)
