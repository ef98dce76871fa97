// starts 100,000 threads
// earns 1
#include <cstdio>
#include <pthread.h>
#include <unistd.h>
static void *wait_for_ever(void *) { pause(); return nullptr; }
int main() {
	pthread_attr_t small;
	pthread_t t;
	int n = 0;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 16384);
	while (n < 100000 && !pthread_create(&t, &small, wait_for_ever, nullptr))
		n++;
	puts(n < 100 ? "harmless" : "too many");
	fflush(stdout);
	_exit(0);
}
