// uses up the stack
// earns 0
#include <cstdio>
int depth(volatile int n) { return depth(n + 1) + n; }
int main() { printf("%d\n", depth(0)); }
