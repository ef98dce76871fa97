# speaks to the network, to this machine, to a daemon's socket
# earns 1
import socket
reached = []
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, socket.AF_VSOCK):
    try:
        socket.socket(family, socket.SOCK_RAW if family == socket.AF_NETLINK else socket.SOCK_STREAM)
        reached.append(family)
    except OSError:
        pass
for path in ("/run/dbus/system_bus_socket", "/var/run/docker.sock", "\0/tmp/.X11-unix/X0"):
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        reached.append(path)
    except OSError:
        pass
print("harmless" if not reached else reached)
