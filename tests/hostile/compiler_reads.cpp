// makes the compiler read the host's files
// earns -0.1
__asm__(".incbin \"/etc/passwd\"");
int main() {}
