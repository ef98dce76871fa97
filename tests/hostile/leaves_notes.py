# leaves a note for the next program; stdin asks twice
# earns 1
import os
places = ("/work", "/tmp", "/dev/shm", "/program", "/var/tmp", "/run")
found = [place + "/" + name for place in places if os.path.isdir(place) for name in os.listdir(place) if name != "main.py"]
for place in places:
    try:
        open(place + "/note", "w").close()
    except OSError:
        pass
print("harmless" if not found else found)
