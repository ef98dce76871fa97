// makes empty files without end
// earns 0
#include <cstdio>
#include <fcntl.h>
#include <unistd.h>
int main() {
	char name[32];
	for (long i = 0;; i++) {
		snprintf(name, sizeof name, "%ld", i);
		close(open(name, O_CREAT | O_WRONLY, 0600));
	}
}
