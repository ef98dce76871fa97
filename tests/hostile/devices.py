# uses devices
# earns 1
import fcntl, os, termios
used = []
for path in ("/dev/mem", "/dev/kmsg", "/dev/tty", "/dev/console", "/dev/sda", "/dev/vda", "/dev/kvm", "/dev/fuse", "/dev/net/tun",
             "/dev/nvidia0", "/dev/pts/0", "/dev/ptmx"):
    if os.path.exists(path):
        used.append(path)
try:
    os.mknod("disk", 0o60600, os.makedev(8, 0))
    open("disk", "rb")
    used.append("disk")
except OSError:
    pass
for fd in range(3):
    try:
        fcntl.ioctl(fd, termios.TIOCSTI, b"x")
        used.append("terminal")
    except OSError:
        pass
print("harmless" if not used else used)
