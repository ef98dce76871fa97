# lifts its limits
# earns 1
import resource
lifted = []
for limit in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC,
              resource.RLIMIT_STACK, resource.RLIMIT_CORE):
    soft, hard = resource.getrlimit(limit)
    if hard == resource.RLIM_INFINITY:
        lifted.append(limit)
    try:
        resource.setrlimit(limit, (hard + 1, hard + 1))
        lifted.append(limit)
    except (OSError, ValueError):
        pass
print("harmless" if not lifted else lifted)
