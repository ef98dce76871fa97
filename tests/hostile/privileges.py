# becomes root: by calls, by programs that are root's, by capabilities
# earns 1
import os, shutil, subprocess
got = []
for call in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]), lambda: os.seteuid(0), lambda: os.chroot("/work"),
             lambda: os.nice(-5), lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))):
    try:
        call()
        got.append("a call")
    except OSError:
        pass
with open("/proc/self/status") as f:
    status = dict(line.rstrip("\n").split(":\t", 1) for line in f)
for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
    if int(status[name], 16):
        got.append(name)
if status["NoNewPrivs"] != "1" or status["Seccomp"] != "2":
    got.append("new privileges")
shutil.copy("/usr/bin/id", "id")
os.chmod("id", 0o6755)
for command in (["./id", "-u"], ["/usr/bin/su", "-c", "id -u"], ["/usr/bin/mount", "-t", "tmpfs", "x", "/work"]):
    try:
        if subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).stdout.strip() in (b"0",):
            got.append(command[0])
    except OSError:
        pass
print("harmless" if not got else got)
